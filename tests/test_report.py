"""dc3 report: a page that holds everything, and tells nothing of the machine."""

import re

import pytest
from finished_runs import FOLDER_OF_THE_MACHINE, make_run
from typer.testing import CliRunner
from workshop import write_notebook

from dc3 import cli
from dc3.machine import paths
from dc3.runs import report as report_page
from dc3.runs import results
from dc3.runs.stage import StageFailed


def report(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


def test_the_page_holds_summary_pictures_and_notebooks_and_needs_nothing_else(home):
    make_run("toy", data_dir=FOLDER_OF_THE_MACHINE)
    result = report("toy")
    assert result.exit_code == 0 and re.match(r"runs/toy/report\.html: \d+\.\d MB", result.output)
    page = (home / "runs/toy/report.html").read_text(encoding="utf-8")
    for told in (
        "65.0 ± 7.1",
        "55.0 ± 7.1",
        "conv4",
        "data_dir",
        "…/pets",
        "torch 2",
        "bytes per class",
        "The teacher, trained on all images: 90.0%",
        "Page of 05_validation",
    ):
        assert told in page, told
    assert page.index("Run toy") < page.index("Page of 00_teacher") < page.index("Page of 06_color_and_fid")
    assert 'href="#05_validation"' in page and 'id="05_validation"' in page
    assert page.count('src="data:image/png;base64,') == 5, "one in each notebook"
    assert not re.search(r"<script|<link|@import|src=\"(?!data:)|url\(['\"]?(?:http|//)", page)
    for of_the_machine in ("/home/somebody", str(home), str(paths.REPOSITORY)):
        assert of_the_machine not in page


def test_code_is_shown_when_asked_for_and_the_file_goes_where_it_is_told(home):
    make_run("toy", until="00")
    assert report("toy", "--out", home / "plain.html").exit_code == 0
    assert report("toy", "--out", home / "code.html", "--code").exit_code == 0
    plain, code = ((home / name).read_text(encoding="utf-8") for name in ("plain.html", "code.html"))
    assert "highlight-ipynb" not in plain.split("</style>")[-1] and "highlight" in code.split("</style>")[-1]
    assert "somebody" not in code


def test_a_run_that_is_not_finished_names_what_is_missing_and_shows_how_far_it_got(home):
    folder = make_run("toy", until="05")
    (folder / "05_validation/manifest.json").unlink()
    assert report("toy").exit_code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Not finished: 01_features, 02_binning, 05_validation, 06_color_and_fid, 07_finetuning." in page
    assert "65.0" not in page, "an accuracy of a stage that was not finished"
    assert page.count("This stage is not finished") == 1 and "Page of 05_validation" in page


@pytest.mark.parametrize(
    "damaged", ["00_teacher/settings.json", "05_validation/results.parquet", "notebooks/00_teacher.ipynb"]
)
def test_of_a_damaged_run_the_page_shows_what_can_be_read(home, damaged):
    path = make_run("toy") / damaged
    path.write_bytes(path.read_bytes()[:40])
    assert report("toy").exit_code == 0
    page = (home / "runs/toy/report.html").read_text(encoding="utf-8")
    assert "Page of 06_color_and_fid" in page and "FID" in page.upper()
    assert "damaged" in page.lower() and path.stem.split(".")[0] in page
    assert ("65.0 ± 7.1" in page) == (path.name != "results.parquet")


def test_runs_that_do_not_exist_are_refused_with_those_that_do(home):
    make_run("toy", until="00")
    result = report("tyo")
    assert result.exit_code == 2 and "RUN = 'tyo': no such run" in result.output
    assert "runs with finished stages: toy" in result.output
    (home / "runs/bare").mkdir()
    assert "no finished stage" in report("bare").output


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("in /home/me/my-data/pets, 3 files", "in …/pets, 3 files"),
        ("<td>/work/a/b.png</td>", "<td>…/b.png</td>"),
        (r"C:\Users\me\pets", "…/pets"),
        ("train/cat/1.png 1/2 a/b https://arxiv.org/abs/2508.01139 </td></tr>", None),
        ("timbrooks/instruct-pix2pix", None),
    ],
)
def test_paths_of_the_machine_are_cut_to_their_names_and_others_stay(text, left):
    assert results.without_machine_paths(text) == (left or text)


@pytest.mark.parametrize(
    ("folder", "text", "left"),
    [
        ("/d", "<div>in /d, of /d/cat</div>", "<div>in …/d, of …/d/cat</div>"),
        ("/data", "../data/x, /data/x, /database, https://data", "../data/x, …/data/x, /database, https://data"),
        ("/home/jane doe/a&b", "<td>/home/jane doe/a&amp;b/1.png</td>", "<td>…/a&amp;b/1.png</td>"),
        ("/d", '<img src="data:image/png;base64,+/d+"> /d', '<img src="data:image/png;base64,+/d+"> …/d'),
    ],
)
def test_a_folder_of_the_parameters_is_cut_where_it_is_a_path_and_nothing_else_changes(folder, text, left):
    found = {"00_teacher": {"params": {"data_dir": folder}}}
    assert report_page._without_machine_paths(text, found) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("/home/jane doe/my [best] images/cats", "…/cats"),
        (r"C:\Users\Jane Doe\pets", "…/pets"),
        ("data/cifar10", None),
        ("timbrooks/instruct-pix2pix", None),
        ("s3://bucket/set", None),
    ],
)
def test_of_a_value_that_is_a_path_the_last_part_is_shown(value, left):
    assert results.shown(value) == (left or value)


@pytest.mark.process
def test_a_page_whose_notebook_fails_says_where_and_leaves_nothing_half_written(tmp_path):
    write_notebook(tmp_path, "page", ["", "n: int = 1", "1 / n"])
    target = tmp_path / "out" / "page.ipynb"
    with pytest.raises(StageFailed, match=r"page.ipynb, cell .*ZeroDivisionError"):
        report_page.write_executed(tmp_path / "page.ipynb", {"n": 0}, target, "a page")
    assert list(target.parent.iterdir()) == []


def test_the_name_of_a_run_is_text(home):
    make_run("__x__", until="00")
    assert report("__x__").exit_code == 0
    assert re.search(r"<h1[^>]*>Run __x__", (home / "runs/__x__/report.html").read_text(encoding="utf-8"))
