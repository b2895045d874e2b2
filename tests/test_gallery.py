from dc3 import gallery


def test_pictures_and_tables_stand_under_their_stage_in_the_order_of_the_stages(tmp_path):
    for name in ("binning_bins.png", "binning_bins.pdf", "color_and_fid_hues.png", "teacher_curve.png"):
        (tmp_path / name).touch()
    (tmp_path / "color_and_fid_colors.md").write_text("| M |\n| --- |\n| 3 |\n")
    page = gallery.write(tmp_path, ["00_teacher", "01_features", "02_binning", "06_color_and_fid"]).read_text()
    told = ["## 00 teacher", "(teacher_curve.png)", "## 02 binning", "(binning_bins.png)", "## 06 color and fid"]
    told += ["**colors** ([csv](color_and_fid_colors.csv))", "| 3 |", "![hues](color_and_fid_hues.png)"]
    places = [page.index(text) for text in told]
    assert places == sorted(places) and "features" not in page and "(binning_bins.pdf)" not in page
    assert gallery.write(tmp_path, ["00_teacher"]) == tmp_path / "README.md", "written again, it replaces the old page"


def test_without_figures_there_is_no_page(tmp_path):
    assert gallery.write(tmp_path, ["00_teacher"]) is None and not list(tmp_path.iterdir())
