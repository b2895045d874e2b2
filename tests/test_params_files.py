"""Every file of params/ against what the notebooks declare."""

import pytest

from dc3.grid import read_sweep
from dc3.parameters import all_declared, check, read_file
from dc3.paths import REPOSITORY

FILES = sorted((REPOSITORY / "params").glob("*.yaml"))


@pytest.mark.parametrize("path", [path for path in FILES if not path.stem.endswith("_sweep")], ids=lambda p: p.stem)
def test_a_params_file_sets_declared_parameters_to_allowed_values(path):
    values = read_file(path)
    checked = check(values, all_declared())
    assert {key: checked[key] for key in values} == values


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.endswith("_sweep")], ids=lambda p: p.stem)
def test_every_run_of_a_sweep_is_allowed(path):
    sweep = read_sweep(path)
    assert sweep.runs and not sweep.repeated
    for name, values in sweep.checked.items():
        assert values["method"] in ("dc3", "dc3_plain", *values["compared"]), name
