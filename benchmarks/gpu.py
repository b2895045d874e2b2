"""The first hour on a GPU: make gpu, or python benchmarks/gpu.py --data-dir data/cifar10

Under ten minutes (--minutes) on one H100-class card. Runs in parts and appends each part's rows to the table as soon as
they are known; a second call leaves out the parts that are there, and a part that failed is tried again. The parts:
the GPU tests; edits a second and peak memory at real size (benchmarks/real_size.py, random weights) by precision,
sampler, batch and compilation; encodes a second; the time of an epoch of the protocol's student; and with CIFAR-10 at
hand a run of the published protocol (ResNet-18 teacher and students, 2,000 epochs, factor 2, stored at 256 px) for
random, RDED, plain and compensated picks with the shipped editor at 32 px, as far as the time goes: a run that was
stopped goes on in the next call.

--pack FILE writes CIFAR-10 as one zip under 50 MB, for the way to the machine (fewer training images, all test images);
--data-dir takes that file too. Without a GPU it says so and does a small form of each part on the processor.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import psutil
import torch
import typer
from real_size import build, encode_row, fitting, photographs, synchronized

from dc3 import students
from dc3.images.image_set import in_memory
from dc3.machine import devices, paths
from dc3.machine.files import replacing
from dc3.models import networks
from dc3.models.editor import DTYPES, EditorSettings, load_editor
from dc3.runs import results

PACKED_BYTES = 49_000_000
SAMPLERS = (("euler_a", 20, 1.0), ("dpmpp_2m", 20, 1.0), ("unipc", 20, 1.0), ("dpmpp_2m", 20, 0.4))
NEEDED = {"edits, float16": 60, "edits, bfloat16": 60, "edits, float16, compiled": 180, "student": 20}  # s, by estimate
Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is done: "real" on a GPU, "small" on a processor."""

    scale: str
    edit_size: int
    encode_size: int
    batches: tuple[int, ...]
    encoded: int
    precisions: tuple[str, ...]
    student: str
    student_images: int
    run_parameters: tuple[str, ...]


GPU = Plan(
    "real", 256, 512, (1, 8, 32), 64, ("float16", "bfloat16"), "resnet18_modified", 100,
    ("teacher_network", "resnet18_modified", "teacher_epochs", "20", "teacher_min_accuracy", "0.8",
     "student_network", "resnet18_modified", "student_epochs", "2000", "factor", "2", "stored_size", "256",
     "edit_batch_size", "256", "student_seeds", "[0]", "smaller_ipcs", "[]", "cross_networks", "[]",
     "ranking_scores", "false"),
)  # fmt: skip
CPU = Plan(
    "small", 64, 64, (1, 2), 2, ("float32",), "conv3", 20,
    ("images_per_class", "4", "ipc", "1", "teacher_network", "conv3", "teacher_width", "8", "teacher_epochs", "1",
     "teacher_min_accuracy", "0", "student_network", "conv3", "student_width", "8", "student_epochs", "1",
     "edit_steps", "1", "edit_batch_size", "2", "evaluate_every", "1", "student_seeds", "[0]", "smaller_ipcs", "[]",
     "cross_networks", "[]", "ranking_scores", "false"),
)  # fmt: skip


def tests(seconds: float) -> Rows:
    """The tests of tests/test_gpu.py."""
    command = [sys.executable, "-m", "pytest", str(paths.REPOSITORY / "tests/test_gpu.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=paths.REPOSITORY)
    print(result.stdout[-3000:], flush=True)
    if result.returncode:
        raise RuntimeError("tests/test_gpu.py fails, see above")
    yield {"told": result.stdout.strip().splitlines()[-1]}


def edits(plan: Plan, precision: str, compiled: bool) -> Rows:
    """Edits of every sampler and batch, and encodes, of a pipeline at real size."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), plan.scale, DTYPES[precision])
        used = EditorSettings(folder, plan.edit_size, 1, 4.0, 1.5, 1, precision=precision, compiled=compiled)
        tool = load_editor(used, devices.device())
        if not compiled:
            yield encode_row(tool, plan.encoded, plan.encode_size, min(plan.encoded, 16))
        for sampler, steps, until in SAMPLERS[:1] if compiled else SAMPLERS:
            steps = steps if plan is GPU else 2
            yield from fitting(
                tool.using(sampler=sampler, steps=steps, guidance_until=until),
                list(plan.batches[-1:] if compiled else plan.batches),
            )


def student_epoch(plan: Plan) -> Rows:
    """Seconds an epoch of the protocol's student on random images: a long training less a short one."""
    count, device, classes = plan.student_images, devices.device(), [str(k) for k in range(10)]
    stored, tested = (
        in_memory("random", split, classes, np.arange(count) % 10, photographs(count, side))
        for split, side in (("train", plan.edit_size), ("test", 32))
    )
    teacher = networks.create(plan.student, 10, 32, seed=0).to(device, memory_format=torch.channels_last).eval()
    seconds = []
    for epochs in (1, 1, 21):  # the first warms up
        protocol = students.Protocol(plan.student, epochs=epochs, factor=2, evaluate_every=0)
        started = synchronized()
        students.train_student(stored, teacher, tested, protocol, seed=0)
        seconds.append(synchronized() - started)
    found = {"device": device.type, "network": plan.student, "images": count, "size": plan.edit_size}
    yield found | {"seconds per epoch": (seconds[2] - seconds[1]) / 20}


def protocol(plan: Plan, data_dir: Path, left: Callable[[], float]) -> Rows:
    """A run of 00 to 05; its rows are the students' accuracies.

    When the time is up they are the finished stages, and TimeoutExpired asks for another call.
    """
    name = f"gpu_benchmark_{plan.scale}"
    values = ("run", name, "data_dir", str(unpacked(data_dir).absolute()), "teacher", "train")
    values += ("compared", "[random, rded]", "baselines", "[dc3_plain, random, rded]", *plan.run_parameters)
    command = [sys.executable, "-m", "dc3.cli", "run", "params/cifar10_conv3_ipc10.yaml", "--until", "05"]
    for pair in zip(values[::2], values[1::2], strict=True):
        command += ["-p", *pair]
    try:
        subprocess.run(command, check=True, timeout=left(), cwd=paths.REPOSITORY)
    except subprocess.TimeoutExpired:
        if (paths.RUNS / name / "00_teacher/manifest.json").exists():
            stages = results.stages(results.manifests(name))
            yield from stages[stages["state"] == "finished"].to_dict("records")
        raise
    table = pd.read_parquet(paths.RUNS / name / "05_validation" / "results.parquet")
    yield from table.select_dtypes(["number", "object", "string"]).to_dict("records")


def unpacked(place: Path) -> Path:
    """The class folders of `place`, a folder or a zip that `pack` wrote; in runs/, so that a run finds them again."""
    if place.is_dir():
        return place
    folder = paths.RUNS / f"{place.stem}.unpacked"
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")  # `new_folder` would flush 40,000 files
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(place) as file:
            file.extractall(partial)
        partial.rename(folder)
    return folder


def pack(data_dir: Path, file: Path, limit: int = PACKED_BYTES) -> int:
    """Zips all test images and equally many training images a class, up to `limit` bytes; returns their number."""
    tests_first = sorted(data_dir.glob("test/*/*"))
    classes = [sorted(folder.iterdir()) for folder in sorted((data_dir / "train").iterdir())]
    rounds = (path for group in zip(*classes, strict=False) for path in group)
    overhead, left, count = 250, limit, 0
    with replacing(file) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as packed:
        for path in (*tests_first, *rounds):
            left -= path.stat().st_size + overhead
            if left < 0:
                break
            packed.write(path, path.relative_to(data_dir))
            count += 1
    return count


def parts(plan: Plan, data_dir: Path | None, left: Callable[[], float]) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """Names of the parts and what computes their rows, the most wanted first."""
    yield "tests", lambda: tests(left())
    for precision in plan.precisions:
        yield f"edits, {precision}", lambda precision=precision: edits(plan, precision, False)
    if plan is GPU:
        yield "edits, float16, compiled", lambda: edits(plan, "float16", True)
    yield "student", lambda: student_epoch(plan)
    if data_dir:
        yield "protocol", lambda: protocol(plan, data_dir, left)


def main(
    data_dir: Annotated[str, typer.Option(help="CIFAR-10: class folders, or a packed file; none: no protocol")] = "",
    minutes: Annotated[float, typer.Option(help="after which no further part starts")] = 9.5,
    only: Annotated[str, typer.Option(help="parts whose names begin so")] = "",
    pack_to: Annotated[str, typer.Option("--pack", help="write --data-dir to this zip, and stop")] = "",
    out: str = "figures/benchmarks/gpu.csv",
) -> None:
    """Run the parts that are not in the table yet."""
    data = paths.resolve(data_dir) if data_dir else None
    if data is not None and not data.exists():
        raise typer.BadParameter(f"--data-dir {data}: is not there; give class folders or a packed file")
    if pack_to:
        if data is None:
            raise typer.BadParameter("--pack needs --data-dir")
        print(f"{pack(data, Path(pack_to))} images, {Path(pack_to).stat().st_size / 1e6:.1f} MB")
        return
    there = torch.cuda.is_available()
    print(torch.cuda.get_device_name() if there else "No GPU is here: a small form runs on the processor.", flush=True)
    imports = time.time() - psutil.Process().create_time()
    file, ends = paths.resolve(out), time.monotonic() + 60 * minutes - imports
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    known, failed = {(row["part"], row["plan"]) for row in rows if row["done"]}, []
    plan = GPU if there else CPU
    for name, compute in parts(plan, data, lambda: max(ends - time.monotonic(), 1)):
        if (name, plan.scale) in known or not name.startswith(only):
            continue
        if time.monotonic() + (NEEDED.get(name, 0) if there else 0) > ends:
            print(f"{name}: no time left; call again", flush=True)
            continue
        rows = [row for row in rows if (row["part"], row["plan"]) != (name, plan.scale)]
        try:
            for found in compute():
                rows.append({"part": name, "plan": plan.scale, "done": False} | found)
                print(json.dumps(found, default=str), flush=True)
                write(rows, file)
            rows = [row | {"done": row["done"] or (row["part"], row["plan"]) == (name, plan.scale)} for row in rows]
            write(rows, file)
        except subprocess.TimeoutExpired:
            failed.append(name)
            print(f"{name}: the time is up; call again to go on", flush=True)
        except Exception as error:  # the fault of one part must not cost the others their time
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
    if failed:
        raise typer.Exit(1)


def write(rows: list[dict[str, Any]], file: Path) -> None:
    with replacing(file) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.4g")


if __name__ == "__main__":
    os.chdir(paths.REPOSITORY)
    typer.run(main)
