"""dc3.runs.results: what a sweep's table is turned into, and the page."""

import numpy as np
import pandas as pd
import pytest

from dc3.runs import report
from dc3.runs.results import (
    accuracy_table,
    across_networks,
    by_setting,
    compensation,
    curves_over,
    main_network,
    read_results,
)


def swept():
    rows = []
    for method, ipc, epochs, scores in [
        ("random", 1, 300, [0.2, 0.3]),
        ("random", 10, 300, [0.4, 0.5]),
        ("random", 10, 1500, [0.6]),
        ("DC3", 10, 300, [0.45, 0.45]),
        ("DC3", 10, 1500, [0.7]),
    ]:
        for seed, top1 in enumerate(scores):
            rows.append(
                {
                    "run": f"{method}-{ipc}-{epochs}", "method": method.lower(), "ipc": ipc, "student_epochs": epochs,
                    "student_seeds": "[0, 1]", "evaluate_every": 150, "training_set": method, "network": "conv3",
                    "student_seed": seed, "epochs": epochs, "top1": top1, "top5": 0.9, "best_top1": top1,
                    "teacher_accuracy": 0.86, "wall_seconds": 10.0,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_row_a_setting_with_mean_and_deviation_over_the_seeds():
    settings = by_setting(swept())
    assert settings["training_set"].tolist() == ["random", "random", "random", "DC3", "DC3"]
    assert settings["seeds"].tolist() == [2, 2, 1, 2, 1]
    assert np.allclose(settings["top1_mean"], [0.25, 0.45, 0.6, 0.45, 0.7])
    assert np.allclose(settings["top1_std"][:2], 0.1 / np.sqrt(2))
    assert settings["top1_std"].isna().tolist() == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_name_tells_the_settings_that_are_not_the_usual_ones():
    table = swept().assign(edit_strength=[1.0] * 7 + [0.5])
    names = by_setting(table)["name"].tolist()
    assert names == ["random", "random", "random", "DC3", "DC3, edit_strength 0.5"]


def test_the_table_has_a_row_a_set_and_a_column_a_setting():
    table = accuracy_table(by_setting(swept()))
    assert table.index.tolist() == ["random", "DC3"]
    assert table.columns.tolist() == ["IPC 1, 300 epochs", "IPC 10, 300 epochs", "IPC 10, 1500 epochs"]
    assert table.loc["random"].tolist() == ["25.0 ± 7.1", "45.0 ± 7.1", "60.0"]
    assert table.loc["DC3"].tolist() == ["", "45.0 ± 0.0", "70.0"]


def test_a_curve_holds_all_but_its_axis_still():
    settings = by_setting(swept())
    by_ipc = curves_over(settings, "ipc")
    assert sorted(zip(by_ipc["training_set"], by_ipc["ipc"], by_ipc["epochs"], strict=True)) == [
        ("random", 1, 300), ("random", 10, 300),
    ], "DC3 has one IPC at 300 epochs: a point, no curve"  # fmt: skip
    by_epochs = curves_over(settings, "epochs")
    assert set(by_epochs["ipc"]) == {10} and len(by_epochs) == 4
    assert curves_over(settings[settings["ipc"] == 10], "ipc") is None


def test_results_are_read_from_both_kinds_of_files_and_none_is_refused(tmp_path):
    swept().to_csv(tmp_path / "r.csv", index=False)
    swept().to_parquet(tmp_path / "r.parquet")
    assert read_results(tmp_path / "r.csv").equals(read_results(tmp_path / "r.parquet"))
    swept()[:0].to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(ValueError, match="no run of the sweep is finished"):
        read_results(tmp_path / "none.csv")


def test_a_student_that_two_runs_trained_counts_once():
    twice = pd.concat([swept(), swept().assign(run="again", method="dc3", baselines='["random"]')])
    assert by_setting(twice)["seeds"].tolist() == [2, 2, 1, 2, 1]


def test_runs_of_other_seeds_are_draws_of_one_setting():
    runs = [(1, 0, 0, 0.5), (1, 0, 1, 0.5), (1, 1, 0, 0.7), (1, 1, 1, 0.7), (2, 0, 0, 0.4)]
    students = [
        {"seed": seed, "student_seed": student, "training_set": "DC3", "network": "conv3", "ipc": 10, "epochs": 300}
        | {"factor": factor, "stored_bytes": 9, "top1": top1, "top5": 1, "best_top1": top1}
        for factor, seed, student, top1 in runs
    ]
    table = by_setting(pd.DataFrame(students))
    assert table["name"].tolist() == ["DC3", "DC3, factor 2"] and table["seeds"].tolist() == [4, 1]
    assert np.isclose(table["top1_mean"][0], 0.6) and np.isclose(table["top1_std"][0], np.std([0.5, 0.7] * 2, ddof=1))


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [
        *(("guidance_scale", 4.0, 1.5), ("edit_size", 32, 256)),
        *(("edit_by", "editor", "grading"), ("coloring", "published", "gap")),
    ],
)
def test_compensation_is_held_against_the_same_picks_without_it_whatever_its_edits_were(key, usual, other):
    rows = [("plain", 1.0, usual, [0.5, 0.6]), ("DC3", 1.0, usual, [0.4, 0.5]), ("DC3", 1.0, other, [0.6, 0.6])]
    rows += [("plain", 0.1, usual, [0.7]), ("DC3", 0.1, usual, [0.6]), ("DC3", 0.2, usual, [0.9])]
    common = swept().iloc[0].to_dict()
    students = [
        common | {"training_set": name, "sure_share": share, key: value, "student_seed": k, "top1": top1}
        for name, share, value, scores in rows
        for k, top1 in enumerate(scores)
    ]
    found = compensation(by_setting(pd.DataFrame(students)), "DC3", "plain")
    assert found["name"].tolist() == ["DC3", f"DC3, {key} {other}", "DC3, sure_share 0.1"]
    assert np.allclose(found["difference"], [-0.1, 0.05, -0.1])
    assert np.allclose(found["deviation"], [0.1, np.sqrt(0.005), np.nan], equal_nan=True)


def test_only_sets_that_every_network_was_trained_on_are_compared_across_networks():
    settings = by_setting(swept())
    assert across_networks(settings) is None
    other = swept()[lambda table: table["run"] == "DC3-10-300"].assign(network="conv4")
    both = by_setting(pd.concat([swept(), other]))
    across = across_networks(both)
    assert across[["method", "network"]].to_numpy().tolist() == [["DC3", "conv3"], ["DC3", "conv4"]]
    assert set(main_network(both)["network"]) == {"conv3"}


@pytest.mark.process
def test_the_report_is_a_page_in_one_file_with_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DC3_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "toy.sweep"
    folder.mkdir(parents=True)
    swept().to_parquet(folder / "results.parquet")
    page = report.write_sweep_report(folder / "results.parquet")
    text = page.read_text(encoding="utf-8")
    assert "5 runs, 8 students" in text and "45.0 ± 7.1" in text and 'src="data:image/png' in text
    made = {path.name for path in (tmp_path / "figures" / "toy").iterdir()}
    assert {"results.csv", "sweep_accuracy.md", "sweep_settings.png", "sweep_ipc.png", "sweep_epochs.png"} <= made
    swept()[:0].to_parquet(folder / "results.parquet")
    assert report.write_sweep_report(folder / "results.parquet") is None
