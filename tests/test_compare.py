"""dc3 compare: what differs between two runs, told, written and drawn."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import make_run
from typer.testing import CliRunner

from dc3 import cli
from dc3.figures import accuracy
from dc3.runs.compare import compare, told


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_differences_of_two_runs_are_printed_written_and_drawn(home):
    make_run("a")
    make_run("b", picks_from=1, top1=0.4, lam=2.0)
    result = command("a", "b")
    assert result.exit_code == 0, result.output
    assert "figures/compare-a-b" in result.output and "lam" in result.output
    folder = home / "figures/compare-a-b"
    names = [f"compare_{name}" for name in ("parameters", "accuracy", "measures", "picks", "times")]
    expected = {f"{name}{suffix}" for name in names for suffix in (".csv", ".md")}
    assert {path.name for path in folder.iterdir()} == expected | {"compare_differences.png", "compare_differences.pdf"}
    parameters = pd.read_csv(folder / "compare_parameters.csv")
    assert parameters.to_numpy().tolist() == [["lam", 1.0, 2.0]], "the runs' names are no difference"


def test_accuracies_have_differences_in_points_and_their_standard_error(home):
    make_run("a")
    make_run("b", top1=0.4)
    table = compare("a", "b").accuracy.set_index(["training set", "student"])
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
    picks = compare("a", "b").picks
    assert picks["class"].tolist() == ["cat", "dog", "owl"]
    assert picks["in common"].tolist() == [1, 1, 1] and picks["Jaccard"].tolist() == pytest.approx([1 / 3] * 3)


def test_distances_by_different_teachers_have_no_difference_and_the_reader_is_told(home):
    make_run("a")
    folder = make_run("b", top1=0.4)
    same = compare("a", "b").measures.set_index(["set", "measure"])["difference"]
    assert same[("random", "FID-teacher")] == pytest.approx(-0.1)
    manifest = folder / "06_color_and_fid/manifest.json"
    teacher = '"00_teacher/teacher.safetensors": "'
    manifest.write_text(manifest.read_text().replace(teacher, teacher + "other"))
    compared = compare("a", "b")
    other = compared.measures.set_index(["set", "measure"])["difference"]
    assert np.isnan(other[("random", "FID-teacher")]) and other[("random", "colourfulness M")] == pytest.approx(-1)
    assert any("they do not compare" in remark for remark in compared.remarks)


def test_runs_of_different_methods_have_their_own_sets_in_one_row(home):
    make_run("a")
    folder = make_run("b", until="05")
    history = pd.read_parquet(folder / "05_validation/history.parquet")
    history["method"] = history["method"].replace("DC3 picks, plain", "herding")
    history.to_parquet(folder / "05_validation/history.parquet")
    table = compare("a", "b").accuracy.set_index(["training set", "student"])
    assert table.loc[("own set (DC3 picks, plain | herding)", "conv3"), "difference"] == pytest.approx(0)
    assert np.isnan(table.loc[("herding", "conv3"), "a"]) and np.isnan(table.loc[("herding", "conv3"), "difference"])


def test_a_run_that_lacks_stages_is_compared_as_far_as_it_goes(home):
    make_run("a")
    folder = make_run("b", until="03")
    settings = folder / "00_teacher/settings.json"
    settings.write_text(settings.read_text().replace('"train": "', '"train": "other'))
    result = command("a", "b")
    assert result.exit_code == 0
    assert "b has no finished 01_features, 02_binning, 04_compensation, 05_validation" in result.output
    assert "the train images of the two runs are not the same: their picks cannot be compared" in result.output
    assert "not declared" not in result.output, "what a run has not got to is no parameter that differs"
    assert "Picks in common" not in result.output and "Test accuracy" not in result.output
    assert (home / "figures/compare-a-b/compare_differences.png").exists()


def test_two_different_runs_that_are_there_are_asked_for(home):
    make_run("a", until="00")
    for arguments, said in [(("a", "a"), "give two different runs"), (("a", "no"), "RUN = 'no': there is no such run")]:
        result = command(*arguments)
        assert result.exit_code == 2 and said in result.output


def test_many_classes_are_cut_in_the_text_and_the_figure(home):
    make_run("a", until="00")
    make_run("b", until="00")
    compared = compare("a", "b")
    names = [f"class{k:03d}" for k in range(100)]
    compared.picks = pd.DataFrame({"class": names, "a": 10, "b": 10, "in common": 5, "Jaccard": np.arange(100) / 100})
    text = told(compared)
    assert "class000" in text and "class099" in text and "class050" not in text
    figure = accuracy.differences(compared.tables, "a", "b")
    assert len(figure.axes[0].get_yticks()) == 25
