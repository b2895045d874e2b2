"""dc3.runs.results, report and compare count on tables and figures by name: the committed demo has them so."""

import pandas as pd

from dc3.machine import paths
from dc3.runs import compare, report

DEMO = paths.REPOSITORY / "figures" / "demo"


def test_the_tables_and_pictures_of_the_report_are_ones_that_the_demo_writes():
    assert all((DEMO / f"{name}.png").exists() for _, _, name, _ in report.PICTURES)
    for _, _, name, left_out in report.TABLES:
        columns = pd.read_csv(DEMO / f"{name}.csv").columns
        if name == "finetuning_scores":  # the demo has one seed, and so no deviations
            columns = pd.read_csv(DEMO.parent / "cifar10/finetuning.csv").columns
        assert columns.str.contains(left_out).any(), "nothing of it is left out"
    assert {"method", "network", "top1_mean"} <= set(pd.read_csv(DEMO / "validation_networks.csv").columns)


def test_what_is_compared_is_measures_and_the_ones_by_a_network_are_known():
    measures = {}
    for name in (compare.COLORS, compare.DISTANCES):
        columns = pd.read_csv(DEMO / f"{name}.csv").columns
        measures[name] = columns[~columns.str.contains(compare.NOT_MEASURED)]
    assert measures[compare.COLORS].str.startswith(("colourfulness M", "hue entropy", "gamut")).all()
    assert len(measures[compare.COLORS]) == 3
    assert measures[compare.DISTANCES].str.contains(compare.BY_A_NETWORK).all()
    assert len(measures[compare.DISTANCES]) == 8
