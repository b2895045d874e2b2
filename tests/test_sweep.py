"""Sweeps: the file's grid, and sweeps of two tiny notebooks."""

import functools

import pandas as pd
import pytest
from PIL import Image
from workshop import COUNT, PARAMETERS, Workshop, execute_here, heard, write_notebook

from dc3.machine import paths
from dc3.runs import parameters, report, runner, sweep
from dc3.runs.checks import check_inputs
from dc3.runs.parameters import ParameterError
from dc3.runs.stage import StageFailed

VALIDATION = [
    "import pandas as pd\nfrom dc3 import runs\nfrom dc3.runs import results\n"
    "from dc3.runs.parameters import PositiveInt, RunName, SeedList",
    PARAMETERS
    + "student_epochs: PositiveInt = 2  # epochs; 13 raises\n"
    + "student_seeds: SeedList = [0, 1]  # one student a seed\n"
    + 'teacher: str = "train"  # train, or a file\n'
    + 'engine: str = "local"  # where batches run',
    'stage = runs.begin("05_validation", globals())\n'
    'count = len(stage.input("00_count/numbers.txt").read_text().split(","))\n'
    "if student_epochs == 13:\n"
    '    raise ArithmeticError("bad luck")\n'
    "rows = [\n"
    '    {"method": method, "network": "conv3", "seed": seed, "epoch": epoch, "loss": 1.0, "lr": 0.1, "hue": "red",\n'
    '     "top1": None if epoch == 2 < student_epochs else 1 / epoch, "top5": seed + 0.5}\n'
    '    for method in ("DC3", "random") for seed in student_seeds for epoch in range(1, student_epochs + 1)\n'
    "]\n"
    'sizes = {"DC3": (1, 9.0, 900.0), "random": (1, 9.0, 800.0)}\n'
    'table = results.students(pd.DataFrame(rows), sizes).assign(entropy=0.5, recognised=0.9)\n'
    'table.to_parquet(stage.output("results.parquet"))\n'
    "stage.finish(teacher=0.9)",
]
PAIR = "base: {n: 4}\ngrid:\n  - {student_epochs: [2, 3]}\n"


class Sweeps(Workshop):
    def __init__(self, root):
        super().__init__(root, {"00_count": COUNT, "05_validation": VALIDATION})

    def write(self, name, text):
        (self.root / f"{name}.yaml").write_text(text, encoding="utf-8")
        return self.root / f"{name}.yaml"

    def sweep(self, file, part="1/1", known=None):
        """The failures of a sweep, and the stages that it executed."""
        with self.entered(), heard() as lines:
            failures, _ = sweep.run_sweep(file, part, known=known)
        return failures, [line.split(" running (")[0].split()[-1] for line in lines if " running (" in line]

    def results(self, name):
        return pd.read_parquet(self.root / f"runs/{name}.sweep/results.parquet")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(sweep, "run_notebooks", functools.partial(runner.run_notebooks, execute=execute_here))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two runs that was interrupted in the middle of its second, and started again."""
    workshop = Sweeps(tmp_path_factory.mktemp("sweep"))
    file = workshop.write("pair_sweep", PAIR)
    validations = []

    def interrupted(name, run, params):
        validations.extend([run] * (name == "05_validation"))
        if len(validations) == 2:
            raise KeyboardInterrupt
        execute_here(name, run, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_notebooks", functools.partial(runner.run_notebooks, execute=interrupted))
        with pytest.raises(KeyboardInterrupt):
            workshop.sweep(file)
        workshop.done_before = workshop.read("05_validation/manifest.json", "pair.student_epochs-2")
        patch.setattr(sweep, "run_notebooks", functools.partial(runner.run_notebooks, execute=execute_here))
        workshop.again = workshop.sweep(file)
    return workshop


def test_an_interrupted_sweep_goes_on_where_it_was(finished):
    failures, stages = finished.again
    assert not failures and stages == ["05_validation"], "only the run that was under way"
    assert finished.read("05_validation/manifest.json", "pair.student_epochs-2") == finished.done_before
    assert "shared_from" in finished.read("00_count/manifest.json", "pair.student_epochs-3")


def test_the_results_have_a_row_for_every_student_of_every_run(finished):
    table = finished.results("pair")
    assert list(table.columns) == [
        "run", "student_epochs", "training_set", "network", "student_seed", "ipc", "stored_bytes",
        "epochs", "top1", "top5", "best_top1", "entropy", "recognised", "agreement", "teacher_accuracy", "wall_seconds",
    ]  # fmt: skip
    assert (table["entropy"] == 0.5).all() and table["agreement"].isna().all(), "nothing stands in for what runs lack"
    students = [(k, name, seed) for k in (2, 3) for name in ("DC3", "random") for seed in (0, 1)]
    assert list(zip(table["student_epochs"], table["training_set"], table["student_seed"], strict=True)) == students
    assert (table["run"] == "pair.student_epochs-" + table["student_epochs"].astype(str)).all()
    assert (table["epochs"] == table["student_epochs"]).all() and (table["top1"] == 1 / table["epochs"]).all()
    assert (table["best_top1"] == 1).all() and (table["top5"] == table["student_seed"] + 0.5).all()
    assert (table["teacher_accuracy"] == 0.9).all() and (table["wall_seconds"] > 0).all()
    assert (table["ipc"] == 1).all() and set(table["stored_bytes"]) == {900, 800}


def test_a_run_that_fails_is_reported_and_the_others_are_done(finished, monkeypatch):
    file = finished.write("luck_sweep", "base: {n: 4, student_seeds: [5]}\ngrid: [{student_epochs: [13, 1]}]")
    assert finished.sweep(file, "2/2") == ({}, ["05_validation"])
    assert list(finished.results("luck")["run"].unique()) == ["luck.student_epochs-1"]
    monkeypatch.setattr(report, "write_sweep_report", lambda table: table.with_name("report.html"))
    whole = finished.command("sweep", file)
    assert whole.exit_code == 1 and "failed: luck.student_epochs-13: 05_validation.ipynb" in whole.stderr
    assert "ArithmeticError: bad luck" in whole.stderr
    assert "runs/luck.sweep/results.parquet" in whole.stdout and "runs/luck.sweep/report.html" in whole.stdout
    assert list(finished.results("luck")["run"].unique()) == ["luck.student_epochs-1"]


def test_a_report_that_fails_hides_no_failed_run(finished, monkeypatch):
    def fail(table):
        raise StageFailed("sweep_report.ipynb, cell [3]: KeyError")

    monkeypatch.setattr(report, "write_sweep_report", fail)
    file = finished.write("bad_sweep", "base: {n: 4, student_seeds: [5]}\ngrid: [{student_epochs: [13]}]")
    result = finished.command("sweep", file)
    assert result.exit_code == 1 and result.stderr.index("failed: bad.student") < result.stderr.index("sweep_report")


@pytest.mark.process
def test_a_sweep_through_the_command(tmp_path):
    workshop = Sweeps(tmp_path)
    file = workshop.write("one_sweep", "base: {n: 2}\ngrid: [{student_epochs: [1]}]")
    result = workshop.dc3("sweep", file, "--no-report")
    assert result.returncode == 0, result.stderr
    assert "1 of 1 runs" in result.stdout and len(workshop.results("one")) == 4


def test_results_of_other_parameters_than_the_files_are_left_out(finished):
    (finished.root / "later").mkdir()
    edited = finished.write("later/pair_sweep", PAIR.replace("n: 4", "n: 5"))
    with finished.entered():
        assert len(sweep.results(finished.root / "pair_sweep.yaml")) == 8
        assert len(sweep.results(edited)) == 0, "runs of these names are there, but of n = 4"


def test_results_are_those_of_the_runs_whatever_the_engine(finished):
    (finished.root / "elsewhere").mkdir()
    edited = finished.write("elsewhere/pair_sweep", PAIR.replace("n: 4", "n: 4, engine: ray"))
    with finished.entered():
        assert len(sweep.results(edited)) == 8


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: {n: 4}\ngrid: [{n: [3, 0], factr: 1}]", ["run bad.n-0.factr-1:", "n = 0", "factr:"]),
        ("grid: [{n: 3, teacher: [train, ./no.pt]}]", ["run bad.n-3.teacher-._no.pt:", "'./no.pt'"]),
    ],
)
def test_refusals_name_run_and_key_before_anything_runs(tmp_path, text, named):
    workshop = Sweeps(tmp_path)
    result = workshop.command("sweep", workshop.write("bad_sweep", text), "--part", "1/2")
    assert result.exit_code == 2 and all(part in result.stderr for part in named), result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads the text of a sweep's file, on notebooks with a few parameters."""
    declarations = (
        'run: RunName = "demo"  # name\nipc: PositiveInt = 10  # images\nmethod: str = "dc3"  # what\n'
        "lam: Weight = 1.0  # weight\nstudent_seeds: SeedList = [0, 1]  # seeds\nsoft: bool = True  # labels"
    )
    write_notebook(tmp_path, "00_first", ["", declarations])
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)

    def read_text(text):
        (tmp_path / "cifar_sweep.yaml").write_text(text, encoding="utf-8")
        return sweep.read_sweep(tmp_path / "cifar_sweep.yaml")

    return read_text


def test_blocks_are_products_and_runs_are_named_by_their_keys_in_order(read):
    swept = read(
        "base: {lam: 1e-4, ipc: 7}\n"
        "grid:\n"
        "  - {method: [random, a/b], ipc: [1, 50]}\n"
        "  - {student_seeds: [[0], [3, 4]], method: dc3}\n"
    )
    expected = {
        "cifar.method-random.ipc-1": {"method": "random", "ipc": 1},
        "cifar.method-random.ipc-50": {"method": "random", "ipc": 50},
        "cifar.method-a_b.ipc-1": {"method": "a/b", "ipc": 1},
        "cifar.method-a_b.ipc-50": {"method": "a/b", "ipc": 50},
        "cifar.student_seeds-0.method-dc3": {"student_seeds": [0], "method": "dc3", "ipc": 7},
        "cifar.student_seeds-3_4.method-dc3": {"student_seeds": [3, 4], "method": "dc3", "ipc": 7},
    }
    defaults = {"student_seeds": [0, 1], "soft": True}
    assert list(swept.runs) == list(expected), "in the order of the grid, and so of its products"
    assert swept.runs == {name: defaults | {"lam": 1e-4, "run": name} | values for name, values in expected.items()}


def test_grid_points_of_the_same_parameters_are_one_run(read):
    swept = read("grid: [{ipc: [1, 10, 1]}, {ipc: 10, method: [dc3, random]}, {lam: [1, 1.0, 2]}]")
    assert list(swept.runs) == ["cifar.ipc-1", "cifar.ipc-10", "cifar.ipc-10.method-random", "cifar.lam-2"]
    assert swept.repeated == {
        "cifar.ipc-10.method-dc3": "cifar.ipc-10", "cifar.lam-1": "cifar.ipc-10", "cifar.lam-1.0": "cifar.ipc-10",
    }  # fmt: skip
    assert swept.keys == ["ipc", "method", "lam"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dataset: cifar10", "dataset: only base and grid are allowed"),
        ("base: {ipc: 1}", "grid = None: expected a list of blocks"),
        ("grid: {ipc: [1, 10]}", "expected a list of blocks"),
        ("base: [ipc]\ngrid: [{ipc: 1}]", "base = [ipc]: expected"),
        ("base: {run: x}\ngrid: [{ipc: 1}]", "run: remove it, because the grid names the runs"),
        ("grid: [{run: [a, b]}]", "run: remove it, because the grid names the runs"),
        ("grid: [{ipc: []}]", "ipc = [] has no values"),
        ("grid: [{method: [a/b, a_b]}]", "two runs would be named 'cifar.method-a_b'"),
        (f"grid: [{{method: [{'x' * 300}]}}]", "200 are allowed"),
        ("grid: [{student_seeds: [0, 1]}]", "run cifar.student_seeds-0:\n  student_seeds = 0 is not allowed"),
        ("grid: [{ipc: [0], soft: [true, false]}]", "run cifar.ipc-0.soft-True, cifar.ipc-0.soft-False:\n  ipc = 0"),
    ],
)
def test_a_file_of_another_form_is_refused(read, text, named):
    with pytest.raises(ParameterError) as refusal:
        read(text)
    assert named in str(refusal.value)


@pytest.fixture
def five(tmp_path, monkeypatch):
    """A sweep's file of five runs, and the names of those that a part of it runs, in order."""
    workshop, ran = Sweeps(tmp_path), []
    monkeypatch.setattr(sweep, "run_notebooks", lambda values, **how: ran.append(values["run"]))
    file = workshop.write("five_sweep", "grid: [{n: [1, 2, 3, 4, 5]}]")

    def run_part(part):
        ran.clear()
        workshop.sweep(file, part)
        return list(ran)

    return run_part


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_parts_are_disjoint_and_together_all(five, n):
    parts = [five(f"{k}/{n}") for k in range(1, n + 1)]
    assert sorted(name for part in parts for name in part) == [f"five.n-{k}" for k in range(1, 6)]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_other_parts_are_refused(five, part):
    with pytest.raises(ParameterError, match=f"--part {part}"):
        five(part)


def test_a_data_set_is_listed_once_for_all_runs_on_it_and_every_refused_run_is_named(monkeypatch):
    listed = []

    def check_inputs(params):
        if "dataset" in params:
            listed.append((params["data_dir"], params["ipc"]))
            if params["data_dir"] == "gone":
                raise ParameterError("data_dir='gone' is not a folder")

    monkeypatch.setattr(sweep, "check_inputs", check_inputs)
    runs = {
        f"{folder}-{ipc}-{method}": {"dataset": "imagefolder", "data_dir": folder, "ipc": ipc, "method": method}
        for folder in ("there", "gone")
        for ipc in (1, 10)
        for method in ("dc3", "random", "rded")
    }
    with pytest.raises(ParameterError) as refusal:
        sweep.for_each(runs, sweep.preflight())
    assert listed == [("there", 1), ("there", 10), ("gone", 1), ("gone", 10)]
    named = ", ".join(name for name in runs if name.startswith("gone"))
    assert str(refusal.value) == f"run {named}:\n  data_dir='gone' is not a folder"


def test_the_slow_checks_can_be_asked_by_themselves(tmp_path):
    declared = parameters.all_declared()
    sweep.preflight()(parameters.check({}, declared))
    with pytest.raises(ParameterError, match=r"editor = '\./none'"):
        sweep.preflight()(parameters.check({"editor": "./none"}, declared))
    with pytest.raises(ParameterError, match="ipc = 9999"):
        sweep.preflight()(parameters.check({"ipc": 9999}, declared))
    for class_name in "ab":
        (tmp_path / class_name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / class_name / "0.png")
    with pytest.raises(ParameterError, match="no folder for astronaut"):
        sweep.preflight()(parameters.check({"condensed_dir": str(tmp_path)}, declared))


def test_runs_of_the_same_parameters_are_checked_once_whatever_their_names(monkeypatch):
    checked = []
    monkeypatch.setattr(sweep, "check_inputs", checked.append)
    runs = {name: {"run": name, "ipc": 1, "vae": name[0]} for name in ("a1", "a2", "b1")}
    sweep.for_each(runs, sweep.preflight())
    assert sorted(map(str, checked)) == sorted(map(str, ({}, {"ipc": 1}, {"vae": "a"}, {"vae": "b"})))


def test_a_sweep_is_not_refused_for_what_only_stages_after_its_last_would_read():
    values = {"generators": ["lora"], "lora_base": "./none", "feature_weights": "./no.pth"}
    values |= {"feature_network": "dinov2", "color_condensed_dirs": ["./none"], "finetune_beside": ["herding"]}
    params = parameters.check(values, parameters.all_declared())
    with pytest.raises(ParameterError):
        check_inputs(params)
    sweep.preflight()(params)


def test_runs_that_are_known_from_elsewhere_are_not_executed_and_stand_in_the_table(finished, tmp_path):
    table = finished.results("pair")
    known = table[table["run"] == "pair.student_epochs-2"].assign(top1=0.123)
    known.to_csv(tmp_path / "known.csv", index=False)
    here = Sweeps(tmp_path)
    file = here.write("pair_sweep", PAIR)
    failures, executed = here.sweep(file, known=tmp_path / "known.csv")
    assert failures == {} and executed.count("05_validation") == 1
    assert here.results("pair").groupby("run")["top1"].max().to_dict() == {
        "pair.student_epochs-2": 0.123,
        "pair.student_epochs-3": table.set_index("run").loc["pair.student_epochs-3", "top1"].max(),
    }
    with pytest.raises(ParameterError, match=r"--known .*: results of another sweep or version, such as pair"):
        here.sweep(here.write("pair_sweep", PAIR.replace("[2, 3]", "[4, 5]")), known=tmp_path / "known.csv")
    with pytest.raises(ParameterError, match="--known nowhere"):
        here.sweep(file, known="nowhere.csv")
