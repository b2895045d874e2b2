"""dc3.runs.results: a row a student, from new runs and those of earlier versions, and their summary."""

import math

import numpy as np
import pandas as pd
import pytest
from finished_runs import make_run, record

from dc3.runs import results

SCORES = [("a", 0, 1, 0.9), ("a", 0, 2, 0.5), ("a", 1, 1, 0.1), ("a", 1, 2, 0.7), ("b", 0, 1, 0.2), ("b", 0, 2, 0.3)]


def history(network="conv3"):
    table = pd.DataFrame(SCORES, columns=["method", "seed", "epoch", "top1"]).assign(top5=1.0, network=network)
    untested = table[table["epoch"] == 2].assign(epoch=3, top1=np.nan)
    return pd.concat([table, untested], ignore_index=True)


def test_a_student_is_a_row_with_its_last_and_its_best_test():
    table = results.students(history(), {"a": (10, 9.0, 2500.0), "b": (10, 9.0, 2400.0)})
    assert table.columns.tolist() == [
        "method", "ipc", "stored_bytes", "network", "seed", "epochs", "top1", "top5", "best_top1",
    ]  # fmt: skip
    assert table.drop(columns=["network", "top5"]).to_numpy().tolist() == [
        ["a", 10, 2500.0, 0, 2, 0.5, 0.9], ["a", 10, 2500.0, 1, 2, 0.7, 0.7], ["b", 10, 2400.0, 0, 2, 0.3, 0.3],
    ]  # fmt: skip


def test_the_summary_is_over_the_seeds():
    students = results.students(history(), {"a": (10, 9.0, 2500.0), "b": (10, 9.0, 2400.0)})
    table = results.summary(students).set_index("method")
    assert table.index.tolist() == ["a", "b"] and table["seeds"].tolist() == [2, 1]
    assert table.loc["a", "top1_mean"] == pytest.approx(0.6)
    assert table.loc["a", "top1_std"] == pytest.approx(math.sqrt(2 * 0.1**2))
    assert table.loc["a", "best_top1_mean"] == pytest.approx(0.8)
    assert table.loc["b", "top1_mean"] == pytest.approx(0.3) and table.loc["b", "stored_bytes"] == 2400
    assert math.isnan(table.loc["b", "top1_std"]), "one seed has no deviation"


def test_a_run_of_an_earlier_version_has_its_students_in_histories(home):
    folder = make_run("old", until="05") / "05_validation"
    (folder / "results.parquet").unlink()
    history().to_parquet(folder / "history.parquet")
    record(folder)
    assert len(results.of_run("old")) == 3
    first_seed = history()[lambda table: table["seed"] == 0]
    pd.concat([first_seed, first_seed.assign(network="conv4")]).to_parquet(folder / "networks.parquet")
    record(folder)
    table = results.of_run("old")
    assert table.groupby("network", sort=False).size().to_dict() == {"conv3": 3, "conv4": 2}, "none of them twice"
    assert set(table["ipc"]) == {2} and table["stored_bytes"].isna().all()
    assert results.summary(table)["top1_mean"].tolist() == pytest.approx([0.6, 0.3, 0.5, 0.3])


def test_a_run_without_students_has_no_results(home):
    make_run("young", until="04")
    assert results.of_run("young") is None


def test_students_of_fewer_images_are_not_of_whole_sets():
    table = pd.DataFrame({"method": ["a", "a", "b", "b"], "ipc": [1, 10, 1, 5]})
    assert results.whole_sets(table)["ipc"].tolist() == [10, 5]
    assert len(results.whole_sets(table.assign(ipc=np.nan))) == 4


def test_differences_within_their_deviation_are_called_none():
    means = {"method": ["a", "b", "c"], "top1_mean": [0.5, 0.62, 0.48], "top1_std": [0.03, 0.04, 0.01]}
    table = pd.DataFrame(means).assign(ipc=10, network="conv3")
    assert results.in_words(pd.concat([table, table.head(1).assign(ipc=1)])).splitlines() == [
        "- a against b, IPC 10: -12.0 points (± 5.0)",
        "- a against c, IPC 10: +2.0 points (± 3.2), so no difference",
        "- b against c, IPC 10: +14.0 points (± 4.1)",
    ]
    assert results.in_words(table.assign(top1_std=np.nan)).endswith("+14.0 points (single students)")
