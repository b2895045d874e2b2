import nbformat
from mistune import create_markdown

from dc3.runs import runner, stage
from dc3.runs.parameters import notebook_names


def test_figures_and_tables_are_listed_by_stage(tmp_path):
    for name in ("binning_bins.png", "binning_bins.pdf", "color_and_fid_hues.png", "teacher_curve.png"):
        (tmp_path / name).touch()
    (tmp_path / "color_and_fid_colors.md").write_text("| M |\n| --- |\n| 3 |\n", encoding="utf-8")
    page = runner.write_figures_readme(
        tmp_path, ["00_teacher", "01_features", "02_binning", "06_color_and_fid"]
    ).read_text(encoding="utf-8")
    texts = ["## 00 teacher", "(teacher_curve.png)", "## 02 binning", "(binning_bins.png)", "## 06 color and fid"]
    texts += ["**colors** ([csv](color_and_fid_colors.csv))", "| 3 |", "![hues](color_and_fid_hues.png)"]
    places = [page.index(text) for text in texts]
    assert places == sorted(places) and "features" not in page and "(binning_bins.pdf)" not in page
    assert runner.write_figures_readme(tmp_path, ["00_teacher"]) == tmp_path / "README.md", (
        "written again, it replaces the old page"
    )


def test_a_file_belongs_to_the_stage_with_the_longest_matching_name(tmp_path):
    for name in ("color_wheel.png", "color_and_fid_hues.png", "color_and_fid_colors.csv", "README.md", "colors.png"):
        (tmp_path / name).touch()
    assert [path.name for path in stage.figures_of(tmp_path, "09_color")] == ["color_wheel.png"]
    found = [path.name for path in stage.figures_of(tmp_path, "06_color_and_fid")]
    assert found == ["color_and_fid_colors.csv", "color_and_fid_hues.png"]


def test_without_figures_there_is_no_page(tmp_path):
    assert runner.write_figures_readme(tmp_path, ["00_teacher"]) is None and not list(tmp_path.iterdir())


def test_a_call_for_some_stages_leaves_the_others_on_the_page(home, monkeypatch):
    monkeypatch.setattr(runner, "why_not_current", lambda *stage: None)
    for name in notebook_names():
        (copy := stage.executed_copy("tiny", name)).parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(nbformat.writes(nbformat.v4.new_notebook()), encoding="utf-8")
    (folder := home / "figures/tiny").mkdir(parents=True)
    for name in ("teacher_curve.png", "binning_bins.png", "validation_curves.png"):
        (folder / name).touch()
    for part in ({"until": "00"}, {"until": "03"}):
        runner.run_notebooks({"run": "tiny"}, preflight=False, **part)
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert all(heading in page for heading in ("## 00 teacher", "## 02 binning", "## 05 validation"))


def test_the_name_of_a_run_is_text(tmp_path):
    (folder := tmp_path / "__x__").mkdir()
    (folder / "teacher_curve.png").touch()
    page = runner.write_figures_readme(folder, ["00_teacher"]).read_text(encoding="utf-8")
    assert "<strong>" not in create_markdown()(page.splitlines()[0])
