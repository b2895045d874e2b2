"""README and docs/: what they say runs, and agrees with the committed tables."""

import re

import pandas as pd
from PIL import Image

from dc3 import teacher
from dc3.images import datasets
from dc3.machine.paths import REPOSITORY
from dc3.models import checkpoints
from dc3.runs.results import accuracy

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FIGURES = REPOSITORY / "figures"  # those committed, wherever runs write theirs
NAMES = {  # in the README's table → in the tables of 05 and 06
    "DC3 (compensated)": "DC3",
    "DC3's picks, no compensation": "DC3 picks, plain",
    "random picks": "random",
}


def rows(page, name):
    """The cells of the rows of Markdown tables whose first cell is `name`."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")[1:]] for line in lines]


def section(page, heading):
    """The text below a heading of a page of docs/, up to the next one."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def write_demo(folder):
    """What the README's Python reads of a demo, smaller: a teacher, and two images a class as 04 writes them."""
    train = datasets.load("scenes10", "train", images_per_class=40).as_tested(32)
    (folder / "00_teacher").mkdir(parents=True)
    model, _ = teacher.train(train, teacher.TeacherRecipe("conv3", epochs=6, seed=0, width=16), device="cpu")
    file = folder / "00_teacher/teacher.safetensors"
    checkpoints.save(model, file, network="conv3", classes=train.classes, image_size=32)
    picks = train.first_per_class(2)
    for index, (label, image) in enumerate(zip(picks.labels, picks.images(), strict=True)):
        path = folder / f"04_compensation/condensed/{label:05d}/{index % 2:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_the_readme_is_read_in_minutes():
    assert len(README) < 9000


def test_the_readmes_python_trains_a_student_on_a_condensed_set(tmp_path, monkeypatch, capsys):
    write_demo(tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    top1 = names["student"].final.top1
    assert capsys.readouterr().out == f"20 images train a student to {top1:.1%} on 1,000 test images\n"
    assert top1 > 0.2, "chance is 0.1"


def test_the_readmes_table_of_the_demo_is_that_of_the_committed_run():
    students = pd.read_csv(FIGURES / "demo/validation_ipc.csv").set_index(["method", "ipc"])
    colours = pd.read_csv(FIGURES / "demo/color_and_fid_colors.csv").set_index("set")["colourfulness M"]
    for name, method in NAMES.items():
        top1 = [100 * students.loc[(method, ipc), ["top1_mean", "top1_std"]].astype(float) for ipc in (10, 1)]
        measured = [f"{mean:.1f} ± {deviation:.1f} %" for mean, deviation in top1]
        assert rows(README, name) == [[*measured, f"{colours[method]:.1f}"]], name


def test_numbers_on_cifar10_are_those_of_the_committed_sweep():
    table = pd.read_csv(FIGURES / "cifar10/sweep_accuracy.csv", dtype=str, keep_default_na=False).set_index("name")
    renamed = {"DC3, sure_share 0.1, edit_candidates 4": "DC3, sure_share 0.1, best of four colourings"}
    for name, cells in table.rename(index=renamed).iterrows():
        assert rows(section("measurements.md", "CIFAR-10"), name) == [list(cells)], name
    compared = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
    names = {"random": "random", "RDED": "RDED", "DC3's picks, plain": "DC3 picks, plain", "DC3, small editor": "DC3"}
    for name, measured in names.items():
        ipcs = table.loc[measured, [f"IPC {ipc}, 300 epochs" for ipc in (1, 10, 50)]]
        assert [row[:3] for row in rows(compared, f"{name}, here")] == [list(ipcs)], name
    sure = table.loc["DC3 picks, plain, sure_share 0.1", "IPC 10, 300 epochs"]
    assert rows(README, "DC3's picks among the images that the teacher is surest of") == [[sure, ""]]


def test_numbers_on_stored_size_are_those_of_the_committed_rows():
    table = pd.read_csv(FIGURES / "cifar10/sizes.csv")
    for (name, factor), of_set in table.groupby(["training_set", "factor"]):
        cells = []
        for size in sorted(table.stored_size.unique()):
            students = of_set[of_set.stored_size == size]
            measured = f"{100 * students.top1.mean():.1f} ± {100 * students.top1.std():.1f}"
            cells += [measured, f"{students.stored_bytes.iloc[0]:,.0f}"] if len(students) else ["", ""]
        assert rows(section("measurements.md", "Stored size"), f"{name}, factor {factor}") == [cells], (name, factor)


def accuracy_of(students):
    """Percent, with a deviation where there are several students; "" without any."""
    return accuracy(students["top1"].mean(), students["top1"].std()) if len(students) else ""


def test_numbers_on_training_time_are_those_of_the_committed_rows():
    sizes = pd.read_csv(FIGURES / "cifar10/sizes.csv").query("stored_size == 32").assign(student_batch_rule="rded")
    budget = pd.read_csv(FIGURES / "cifar10/budget.csv")
    budget.loc[budget["coloring"] == "gap", "training_set"] += ", gaps filled"
    table = pd.concat([budget, sizes]).query("network == 'conv3'")
    compared = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
    for (name, factor), of_set in table.groupby(["training_set", "factor"]):
        columns = [("rded", 300), ("dc3", 300), ("rded", 2000), ("dc3", 2000)]
        cells = [
            accuracy_of(of_set[(of_set.student_batch_rule == rule) & (of_set.epochs == epochs)])
            for rule, epochs in columns
        ]
        assert rows(section("measurements.md", "Training time and batches"), f"{name}, factor {factor}") == [cells]
        assert all(cells) or name.endswith("gaps filled"), name
        if factor == 2 and all(cells):
            shown = {"DC3 picks, plain": "DC3's picks, plain", "DC3": "DC3, small editor"}.get(name, name)
            assert rows(compared, f"{shown}, here, one student")[0][1] == cells[-1], name


def test_numbers_on_a_larger_student_are_those_of_the_committed_rows():
    table = pd.read_csv(FIGURES / "cifar10/budget.csv").query("network == 'resnet18_modified'")
    sets = table.groupby(["training_set", "coloring"])
    for (name, coloring), students in sets:
        view = f"{students.entropy.iloc[0]:.2f}", f"{100 * students.recognised.iloc[0]:.0f} %"
        cells = [*(accuracy_of(students[students.epochs == epochs]) for epochs in (500, 2000)), *view]
        arm = f"{name}, gaps filled" if coloring == "gap" else name
        assert rows(section("measurements.md", "A ResNet-18 student"), arm) == [cells], arm
    assert len(sets) == 4


def arms(table, usual, changes):
    """Name → rows of an arm, which differs from the usual one in what `changes` has for it; each row is in one arm."""
    found = {}
    for name, changed in changes.items():
        arm = pd.Series(usual | changed)
        found[name] = table[(table[list(arm.index)] == arm).all(axis=1)]
    assert sum(map(len, found.values())) == len(table) and all(map(len, found.values()))
    return found


PLAIN = {"training_set": "DC3 picks, plain"}
TEN = {  # in the table of ten classes → how their rows differ from the usual ones
    "random": {"training_set": "random"},
    "RDED": {"training_set": "RDED"},
    "DC3 picks, plain": PLAIN,
    "DC3": {},
    "DC3, gaps filled": {"coloring": "gap"},
    "the VAE's round trip": {"edit_by": "vae"},
    "plain colour grades": {"edit_by": "grading"},
    "DC3 picks, plain, sure_share 0.1": PLAIN | {"sure_share": 0.1},
    "DC3, sure_share 0.1, edit_strength 0.5": {"sure_share": 0.1, "edit_strength": 0.5},
    "DC3 picks, plain, kept at 128 px": PLAIN | {"stored_size": 128},
    "DC3 picks, plain, hard labels": PLAIN | {"soft_labels": False},
    "DC3, hard labels": {"soft_labels": False},
}


def test_numbers_on_ten_classes_at_64_px_are_those_of_the_committed_rows():
    usual = {"training_set": "DC3", "edit_by": "editor", "coloring": "published", "soft_labels": True}
    usual |= {"sure_share": 1.0, "edit_strength": 1.0, "stored_size": 0}
    for name, students in arms(pd.read_csv(FIGURES / "tiny_imagenet/ten.csv"), usual, TEN).items():
        view = f"{students.entropy.mean():.2f}", f"{100 * students.recognised.mean():.0f} %"
        cells = [accuracy_of(students), str(len(students)), *view]
        assert rows(section("measurements.md", "Ten classes at 64 px"), name) == [cells], name


ARMS = {  # the same in the table of causes
    "nothing": PLAIN,
    "the editor": {},
    "the VAE's round trip": {"edit_by": "vae"},
    "plain colour grades": {"edit_by": "grading"},
    "the editor, by gaps": {"coloring": "gap"},
    "nothing, a fifth of hard labels": PLAIN | {"hard_share": 0.2},
    "the editor, a fifth of hard labels": {"hard_share": 0.2},
    "nothing, hard labels": PLAIN | {"soft_labels": False},
    "the editor, hard labels": {"soft_labels": False},
    "nothing, small teacher": PLAIN | {"images_per_class": 500},
    "the editor, small teacher": {"images_per_class": 500},
    "nothing, small jittered teacher": PLAIN | {"images_per_class": 500, "teacher_jitter": 0.4},
    "the editor, small jittered teacher": {"images_per_class": 500, "teacher_jitter": 0.4},
}


def test_numbers_on_the_causes_are_those_of_the_committed_rows():
    table = pd.read_csv(FIGURES / "cifar10/causes.csv").query("training_set not in ['random', 'RDED']")
    usual = {"training_set": "DC3", "edit_by": "editor", "coloring": "published", "soft_labels": True}
    usual |= {"hard_share": 0.0, "images_per_class": 0, "teacher_jitter": 0.0}
    for name, students in arms(table, usual, ARMS).items():
        cells = accuracy_of(students), f"{students.entropy.iloc[0]:.2f}", f"{100 * students.recognised.iloc[0]:.0f} %"
        assert rows(section("measurements.md", "The causes"), name) == [list(cells)], name


def test_numbers_on_the_coverage_of_colours_are_those_of_the_committed_table():
    tables = [pd.read_csv(FIGURES / data / "coverage.csv").set_index("set") for data in ("cifar10", "tiny_imagenet")]
    for name in tables[0].index:
        values = [value for table in tables for value in table.loc[name]]
        cells = [f"{value:.{digits}f}" for value, digits in zip(values, (3, 2, 2) * 2, strict=True)]
        assert rows(section("editing.md", "Filling gaps"), name) == [cells], name


def test_numbers_on_hard_labels_are_those_of_the_committed_rows():
    table = pd.read_csv(FIGURES / "cifar10/causes.csv").query("edit_by == 'editor' and coloring == 'published'")
    table = table.query("hard_share == 0 and images_per_class == 0")
    shown = {"random": "random images", "DC3 picks, plain": "DC3's picks", "DC3": "DC3's picks, compensated"}
    shown["RDED"] = "crops of [RDED](https://arxiv.org/abs/2312.03526), the strongest baseline"
    for name, of_set in table.groupby("training_set"):
        cells = [accuracy_of(of_set[of_set.soft_labels == soft]) for soft in (True, False)]
        assert rows(section("measurements.md", "Hard labels"), name) == [cells], name
        assert rows(README, shown.pop(name)) == [cells], name
    assert not shown


def test_published_numbers_of_the_comparison_are_those_that_figures_show():
    from dc3.runs.published import CONV3, RESNET18

    compared = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
    for method in ("RDED", "D⁴M", "DC3"):
        published = ["" if number is None else str(number) for number in RESNET18["CIFAR-10"][method]]
        assert [*published, "ResNet-18"] in [row[:4] for row in rows(compared, f"{method}, published [2]")]
    assert str(CONV3["CIFAR-10"]["RDED"][1]) == rows(compared, "RDED, published [1]")[0][1]
    names = {"RDED": "RDED [1, 2]", "D⁴M": "D⁴M [2, 3]", "Minimax": "Minimax [2, 4]", "DC3": "DC3 [2, 8]"}
    for method, name in names.items():
        assert rows(compared, name)[0][:2] == [str(number) for number in RESNET18["ImageNet-1K"][method][1:]], name


def test_numbers_on_the_demo_under_five_seeds_are_those_of_the_committed_rows():
    table, page = pd.read_csv(FIGURES / "benchmarks/demo_seeds.csv"), section("measurements.md", "The demo")
    runs = table.groupby(["run_seed", "threads", "method"])["top1"].agg(["mean", "std"]).mul(100).unstack()
    for seed, of_seed in runs.groupby("run_seed"):
        cells = [
            [str(threads), *(f"{row['mean', name]:.1f} ± {row['std', name]:.1f}" for name in sorted(row["mean"].index))]
            for (_, threads), row in of_seed.sort_index(ascending=False).iterrows()
        ]
        assert rows(page, str(seed)) == cells
    means = runs["mean"]
    picks, random = means["DC3 picks, plain"], means["random"]
    ahead = (picks > random).unstack()
    assert ahead[2].sum() == 3 and (ahead.nunique(axis=1) == 1).all(), "the same seeds with either number of threads"
    on_two = means.xs(2, level="threads")
    picked, drawn = on_two["DC3 picks, plain"], on_two["random"]
    assert f"{picked.mean():.1f} ± {picked.std():.1f} against {drawn.mean():.1f} ± {drawn.std():.1f}" in page
    cost = picks - means["DC3"]
    assert f"{cost.min():.0f} to {cost.max():.0f} points" in page
    between = (means.xs(1, level="threads") - on_two).abs().max().max()
    assert f"by {between:.1f} points at most" in page
