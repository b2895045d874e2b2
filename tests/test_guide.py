"""What a run says in its end, and the version."""

import shlex
import tomllib

import pandas as pd
import pytest
from finished_runs import make_run, record
from workshop import command

from dc3.machine import paths
from dc3.runs import guide as guides
from dc3.runs.guide import PICTURES, guide


@pytest.fixture
def run(home):
    make_run("toy")
    for name in ("sampling_tsne.png", "validation_curves.png", "compensation_method.png", "teacher_curve.png"):
        (home / "figures/toy" / name).touch()
    return home


def test_the_end_of_a_run_tells_accuracy_pictures_the_set_and_what_to_do_next(run, monkeypatch):
    monkeypatch.setattr(guides, "notebook_names", lambda: ["00_teacher", "05_validation"])
    text = guide("toy")
    assert [" ".join(line.split()) for line in text.split("\n\n")[0].splitlines()] == [
        "accuracy of conv3 on the test images, in percent, by what it was trained on:",
        "65.0 ± 7.1 DC3 picks, plain (2 images, 1.5 kB a class)",
        "55.0 ± 7.1 random (2 images, 1.6 kB a class)",
        "90.0 the teacher (all images)",
    ]
    places = [text.index(f"figures/toy/{name}") for name in PICTURES if f"toy/{name}" in text]
    assert len(places) == 3 and places == sorted(places), "the best first, and only those that are there"
    assert "runs/toy/04_compensation/condensed" in text and "dc3 report toy" in text
    assert text.splitlines()[-1].strip().startswith("dc3 data check FOLDER ")


def test_the_lines_of_the_guide_run_as_they_stand(run, monkeypatch):
    monkeypatch.setattr(guides, "notebook_names", lambda: ["00_teacher", "05_validation"])
    monkeypatch.setattr("sys.argv", ["/a folder/bin/dc3", "run"])
    monkeypatch.setenv("PATH", "")
    lines = guide("toy").split("next:\n")[1].splitlines()
    assert [shlex.split(line, comments=True) for line in lines] == [
        ["/a folder/bin/dc3", "report", "toy"],
        ["/a folder/bin/dc3", "data", "check", "FOLDER"],
    ]


def test_students_of_smaller_sets_do_not_count_and_one_student_has_no_deviation(run):
    file = run / "runs/toy/05_validation/results.parquet"
    table = pd.read_parquet(file).query("seed == 0 and network == 'conv3'")
    pd.concat([table, table.assign(ipc=1, top1=0.0)]).to_parquet(file)
    record(file.parent)
    assert " 60.0        DC3 picks, plain (2 images" in guide("toy")


def test_the_guide_of_an_unfinished_run_tells_what_is_there(home):
    make_run("toy", until="00")
    text = guide("toy")
    assert "figures and tables: figures/toy" in text and "dc3 report toy" in text
    assert "accuracy" not in text and "data check" not in text


def test_a_damaged_table_of_results_is_named(run):
    (run / "runs/toy/05_validation/results.parquet").write_bytes(b"PAR1")
    assert guide("toy").startswith("runs/toy/05_validation: results.parquet is not what 05_validation wrote")


def test_the_pictures_are_those_that_the_demo_draws():
    drawn = {path.name for path in (paths.REPOSITORY / "figures/demo").iterdir()}
    assert PICTURES.keys() <= drawn


def test_an_environment_that_is_not_active_is_named_in_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [".venv/bin/dc3", "run"])
    assert guides._command() == ".venv/bin/dc3"
    monkeypatch.setattr("sys.argv", ["/x/dc3/cli.py", "run"])
    assert guides._command() == "dc3"


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((paths.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    result = command("--version")
    assert result.exit_code == 0 and result.stdout.startswith(f"dc3 {project['version']}, Python 3.")
