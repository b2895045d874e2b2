"""Published top-1 accuracies in percent, to compare ours with: ResNet-18 students, other hardware, other editor.

Sources: DC3 (arXiv 2508.01139) except the conv3 row, which is RDED's (arXiv 2312.03526).
"""

import pandas as pd

IPCS = (1, 10, 50)
Numbers = dict[str, dict[str, tuple[float | None, ...]]]  # data set → method → one number per IPC of IPCS
RESNET18: Numbers = {
    "CIFAR-10": {
        "RDED": (22.9, 37.1, 62.1),
        "SRe²L": (16.9, 27.2, 47.5),
        "DataDAM": (32.0, 54.2, 67.0),
        "D⁴M": (17.6, 51.5, 62.3),
        "DC3": (25.6, 57.8, 80.9),
    },
    "CIFAR-100": {
        "RDED": (11.0, 42.6, 62.6),
        "SRe²L": (2.0, 23.5, 51.4),
        "DataDAM": (14.5, 34.8, 49.4),
        "D⁴M": (5.7, 44.0, 48.4),
        "DC3": (21.1, 57.4, 64.2),
    },
    "Tiny-ImageNet": {
        "RDED": (9.7, 41.9, 58.2),
        "Minimax": (13.3, 39.2, 44.8),
        "D⁴M": (15.1, 35.7, 46.2),
        "DC3": (20.0, 45.1, 59.4),
    },
    "ImageNette": {
        "RDED": (35.8, 61.4, 80.4),
        "Minimax": (32.1, 62.0, 76.6),
        "D⁴M": (34.1, 68.4, 81.3),
        "IGD": (None, 66.2, 82.0),
        "DC3": (37.6, 84.8, 89.8),
    },
    "ImageWoof": {
        "RDED": (20.8, 38.5, 68.5),
        "Minimax": (None, 37.6, 57.1),
        "D⁴M": (None, 42.9, 62.1),
        "IGD": (None, 47.2, 65.4),
        "DC3": (23.2, 48.7, 72.4),
    },
    "ImageNet-1K": {
        "RDED": (6.6, 42.0, 56.5),
        "SRe²L": (0.1, 21.3, 46.8),
        "Minimax": (None, 44.3, 58.6),
        "D⁴M": (None, 27.9, 55.2),
        "IGD": (None, 46.2, 60.3),
        "DC3": (8.1, 50.4, 62.3),
    },
}
CONV3: Numbers = {"CIFAR-10": {"RDED": (None, 50.2, None)}}
STUDENTS: dict[str, Numbers] = {"resnet18": RESNET18, "conv3": CONV3}


def table(data_set: str) -> pd.DataFrame:
    """Columns method, student, ipc, top1_mean (a fraction). ValueError naming the known data sets."""
    rows = [
        {"method": method, "student": student, "ipc": ipc, "top1_mean": percent / 100}
        for student, sets in STUDENTS.items()
        for method, numbers in sets.get(data_set, {}).items()
        for ipc, percent in zip(IPCS, numbers, strict=True)
        if percent is not None
    ]
    if not rows:
        raise ValueError(f"published_as = {data_set!r}: choose one of {', '.join(RESNET18)}")
    return pd.DataFrame(rows)


def beside(measured: pd.DataFrame, data_set: str) -> pd.DataFrame:
    """A summary (columns method, network, ipc, top1_mean, top1_std), then the published numbers, marked as such.

    Columns method, ipc, top1_mean, top1_std (NaN when unknown), for `figures.accuracy.beside_published`.
    """
    published = table(data_set)
    published["method"] = published["method"] + ", " + published["student"] + ", published"
    measured = measured.assign(method=measured["method"] + ", " + measured["network"] + ", here")
    columns = ["method", "ipc", "top1_mean", "top1_std"]
    return pd.concat([measured[columns], published.assign(top1_std=float("nan"))[columns]], ignore_index=True)
