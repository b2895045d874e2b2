"""Every file of params/ against what the notebooks declare."""

import pytest

from dc3.machine.paths import REPOSITORY
from dc3.runs.checks import check_values
from dc3.runs.parameters import all_declared, as_declared, check, read_file
from dc3.runs.published import IPCS, RESNET18
from dc3.runs.sweep import read_sweep

FILES = sorted((REPOSITORY / "params").glob("*.yaml"))
CIFAR, IMAGENETS = ["cifar10", "cifar100"], ["imagenette", "imagewoof", "imagenet10", "imagenet100", "imagenet1k"]


@pytest.mark.parametrize("path", [path for path in FILES if not path.stem.endswith("_sweep")], ids=lambda p: p.stem)
def test_a_params_file_sets_declared_parameters_to_allowed_values(path):
    values = read_file(path)
    checked = check(values, all_declared())
    check_values(checked)
    assert {key: checked[key] for key in values} == as_declared(values, all_declared())


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.endswith("_sweep")], ids=lambda p: p.stem)
def test_every_run_of_a_sweep_is_allowed(path):
    sweep = read_sweep(path)
    assert sweep.runs and not sweep.repeated
    for name, values in sweep.runs.items():
        assert values["method"] in ("dc3", "dc3_plain", *values["compared"]), name
        check_values(values)


@pytest.mark.parametrize("data_set", [*CIFAR, "tiny_imagenet", *IMAGENETS])
def test_every_data_set_of_the_method_has_a_file_for_each_published_ipc_and_they_differ_in_nothing_else(data_set):
    files = {ipc: read_file(REPOSITORY / "params" / f"{data_set}_ipc{ipc}.yaml") for ipc in IPCS}
    assert [values.pop("ipc") for values in files.values()] == list(map(str, IPCS))
    assert files[1] == files[10] == files[50]
    assert files[1].get("published_as", "") in ("", *RESNET18)
