"""dc3 compare: what differs between two runs, told, written and drawn."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import make_run, record
from typer.testing import CliRunner

from dc3 import cli
from dc3.figures import accuracy
from dc3.machine import paths
from dc3.runs import report
from dc3.runs.compare import BY_A_NETWORK, NOT_A_MEASURE, Comparison, compare, write
from dc3.runs.stage import StageFailed

DEMO = paths.REPOSITORY / "figures" / "demo"


@pytest.fixture
def home(home, monkeypatch):
    monkeypatch.setenv("DC3_HOME", str(home))  # of the kernel
    return home


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_differences_of_two_runs_are_printed_written_and_drawn(home):
    make_run("a")
    make_run("b", picks_from=1, top1=0.4, lam=2.0)
    result = command("a", "b")
    assert result.exit_code == 0, result.output
    assert "figures/compare~a~b" in result.output and "lam" in result.output
    folder = home / "figures/compare~a~b"
    assert "parameters: 1 rows" in result.output and "Jaccard" in result.output, "the head of each table"
    names = [f"compare_{name}" for name in ("parameters", "accuracy", "measures", "picks", "times")]
    expected = {f"{name}{suffix}" for name in names for suffix in (".csv", ".md")}
    expected |= {"compare_differences.png", "compare_differences.pdf", "compare.ipynb", "compare.html"}
    assert {path.name for path in folder.iterdir()} == expected
    assert 'src="data:image/png' in (folder / "compare.html").read_text(encoding="utf-8")
    parameters = pd.read_csv(folder / "compare_parameters.csv")
    assert parameters.to_numpy().tolist() == [["lam", 1.0, 2.0]], "the runs' names are no difference"


def test_comparisons_of_other_runs_and_runs_have_other_folders():
    pairs = [("a-b", "c"), ("a", "b-c"), ("a", "b")]
    folders = {Comparison(*pair, {}, []).folder for pair in pairs} | {paths.FIGURES / "compare-a-b"}
    assert len(folders) == 4


def test_tables_that_a_later_comparison_no_longer_makes_go(home, monkeypatch):
    monkeypatch.setattr(report, "write_executed", lambda *_: None)
    compared = Comparison("a", "b", {}, [])
    for name in ("compare_picks.csv", "compare_picks.md", "compare.html", "mine.txt"):
        (compared.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (compared.folder / name).touch()
    write(compared)
    assert {path.name for path in compared.folder.iterdir()} == {"compare.html", "mine.txt"}


def test_a_comparison_whose_notebook_fails_ends_with_its_words(home, monkeypatch):
    def fail(*_):
        raise StageFailed("compare.ipynb, cell [3]: KeyError")

    make_run("a", until="00")
    make_run("b", until="00")
    monkeypatch.setattr(report, "write_executed", fail)
    result = command("a", "b")
    assert result.exit_code == 1 and "compare.ipynb, cell [3]: KeyError" in result.output


def test_accuracies_have_differences_in_points_and_their_standard_error(home):
    make_run("a")
    make_run("b", top1=0.4)
    table = compare("a", "b").tables["accuracy"].set_index(["training set", "student"])
    own = table.loc[("DC3 picks, plain", "conv3")]
    assert own["a"] == pytest.approx(65) and own["b"] == pytest.approx(55) and own["difference"] == pytest.approx(-10)
    deviation = 10 / np.sqrt(2)
    assert own["a, ±"] == pytest.approx(deviation)
    assert own["difference, s.e."] == pytest.approx(np.sqrt(deviation**2 / 2 * 2))
    other = table.loc[("random", "conv4")]
    assert other["difference"] == pytest.approx(-10) and np.isnan(other["difference, s.e."]), (
        "one seed has no deviation"
    )


def test_picks_in_common_are_counted_by_class(home):
    make_run("a", until="03")
    make_run("b", until="03", picks_from=1)
    picks = compare("a", "b").tables["picks"]
    assert picks["class"].tolist() == ["cat", "dog", "owl"]
    assert picks["in common"].tolist() == [1, 1, 1] and picks["Jaccard"].tolist() == pytest.approx([1 / 3] * 3)


def test_distances_by_different_teachers_have_no_difference_and_the_reader_is_told(home):
    make_run("a")
    folder = make_run("b", top1=0.4)
    same = compare("a", "b").tables["measures"].set_index(["set", "measure"])["difference"]
    assert same[("random", "FID-teacher")] == pytest.approx(-0.1)
    manifest = folder / "06_color_and_fid/manifest.json"
    teacher = '"00_teacher/teacher.safetensors": "'
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(teacher, teacher + "other"), encoding="utf-8")
    compared = compare("a", "b")
    other = compared.tables["measures"].set_index(["set", "measure"])["difference"]
    assert np.isnan(other[("random", "FID-teacher")]) and other[("random", "colourfulness M")] == pytest.approx(-1)
    assert any("they cannot be compared" in remark for remark in compared.remarks)


def test_runs_of_different_methods_have_their_own_sets_in_one_row(home):
    make_run("a")
    folder = make_run("b", until="05")
    students = pd.read_parquet(folder / "05_validation/results.parquet")
    students["method"] = students["method"].replace("DC3 picks, plain", "herding")
    students.to_parquet(folder / "05_validation/results.parquet")
    record(folder / "05_validation")
    table = compare("a", "b").tables["accuracy"].set_index(["training set", "student"])
    assert table.loc[("own set (DC3 picks, plain | herding)", "conv3"), "difference"] == pytest.approx(0)
    assert np.isnan(table.loc[("herding", "conv3"), "a"]) and np.isnan(table.loc[("herding", "conv3"), "difference"])


def test_a_run_that_lacks_stages_is_compared_as_far_as_it_goes(home):
    make_run("a")
    folder = make_run("b", until="03")
    settings = folder / "00_teacher/settings.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace('"train": "', '"train": "other'), encoding="utf-8")
    record(folder / "00_teacher")
    result = command("a", "b")
    assert result.exit_code == 0
    assert "b has no finished 01_features, 02_binning, 04_compensation, 05_validation" in result.output
    assert "the two runs have different train images: their picks cannot be compared" in result.output
    assert "not declared" not in result.output, "what a run has not got to is no parameter that differs"
    assert "Picks in common" not in result.output and "Test accuracy" not in result.output
    assert (home / "figures/compare~a~b/compare_differences.png").exists()


def test_two_different_runs_that_are_there_are_asked_for(home):
    make_run("a", until="00")
    for arguments, said in [(("a", "a"), "give two different runs"), (("a", "no"), "RUN = 'no': no such run")]:
        result = command(*arguments)
        assert result.exit_code == 2 and said in result.output


def test_a_run_of_an_earlier_version_has_no_colours_to_compare_and_the_reader_is_told(home):
    make_run("a")
    folder = make_run("b")
    manifest = folder / "06_color_and_fid/manifest.json"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace("colors.parquet", "other.parquet"), encoding="utf-8"
    )
    compared = compare("a", "b")
    assert "measures" not in compared.tables and "accuracy" in compared.tables
    assert any(remark.startswith("b has no colors.parquet") for remark in compared.remarks)


def test_of_many_classes_the_figure_shows_some(home):
    make_run("a", until="00")
    make_run("b", until="00")
    tables = compare("a", "b").tables
    names = [f"class{k:03d}" for k in range(100)]
    tables["picks"] = pd.DataFrame({"class": names, "a": 10, "b": 10, "in common": 5, "Jaccard": np.arange(100) / 100})
    figure = accuracy.differences(tables, "a", "b")
    assert len(figure.axes[0].get_yticks()) == 25


def test_measures_and_those_by_a_network_are_known_by_the_columns_that_the_demo_has():
    columns = {name: pd.read_csv(DEMO / f"color_and_fid_{name}.csv").columns for name in ("colors", "distances")}
    measures = {name: of_table[~of_table.str.contains(NOT_A_MEASURE)] for name, of_table in columns.items()}
    assert measures["colors"].str.startswith(("colourfulness M", "hue entropy", "gamut")).all()
    assert len(measures["colors"]) == 3
    assert measures["distances"].str.contains(BY_A_NETWORK).all() and len(measures["distances"]) == 8
