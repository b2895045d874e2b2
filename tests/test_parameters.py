from typing import get_args

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from dc3 import binning, blending, compensation, gradients, sampling, strategies, students
from dc3.images import datasets
from dc3.models import editor, networks
from dc3.runs import notebook_stage
from dc3.runs import parameters as parameter_types
from dc3.runs.parameters import (
    ParameterError,
    all_declared,
    check,
    declared,
    notebook_names,
    parse_value,
    read_file,
)


def write_notebook(folder, name, *declarations):
    cell = new_code_cell("\n".join(declarations), metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[cell], metadata=metadata), folder / f"{name}.ipynb")


@pytest.fixture
def parameters(tmp_path):
    write_notebook(
        tmp_path,
        "00_first",
        'run: RunName = "demo"  # name of the run',
        "ipc: PositiveInt = 10  # images per class",
        "lam: NonNegativeFloat = 1.0  # redundancy",
        "guidance_scale: GuidanceScale = 4.0  # how strongly the instruction is followed",
        "image_guidance_scale: ImageGuidanceScale = 1.5  # how strongly the source is kept",
        'blend_mode: BlendMode = "gradient"  # how edits are joined',
        'warm_prompts: PromptList = ["sunny", "golden hour"]  # warm',
    )
    return all_declared(tmp_path)


def test_declarations_are_read_with_type_default_and_help(parameters):
    ipc = parameters["ipc"]
    assert (ipc.type_name, ipc.default, ipc.help) == ("PositiveInt", 10, "images per class")
    assert parameters["warm_prompts"].default == ["sunny", "golden hour"]


def test_a_declaration_may_have_several_lines_equal_signs_and_a_formatters_mark(tmp_path):
    names = ["names: NameList = [", '    "a=b",', "]  # the names"]
    write_notebook(tmp_path, "00_x", *names, 'text: str = "x = 1"  # a text = a string  # fmt: skip')
    found = declared("00_x", tmp_path)
    assert found["names"].default == ["a=b"] and found["names"].help == "the names"
    assert found["text"].default == "x = 1" and found["text"].help == "a text = a string"


def test_values_go_over_the_defaults(parameters):
    checked = check({"ipc": 50, "lam": 2}, parameters)
    assert checked == {
        "run": "demo", "ipc": 50, "lam": 2.0, "guidance_scale": 4.0, "image_guidance_scale": 1.5,
        "blend_mode": "gradient", "warm_prompts": ["sunny", "golden hour"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"icp": 10}, "icp: no notebook declares this parameter; did you mean ipc?"),
        ({"ipc": 0}, r"ipc = 0 is not allowed: must be greater than 0 \(images per class\)"),
        ({"ipc": "ten"}, "ipc = 'ten' is not allowed: must be a valid integer"),
        ({"ipc": 2.5}, "ipc = 2.5 is not allowed"),
        ({"ipc": True}, "ipc = True is not allowed"),
        ({"blend_mode": "mosaic"}, "must be 'gradient', 'random', 'grid'"),
        ({"warm_prompts": []}, "warm_prompts = "),
        ({"guidance_scale": 1.0}, "guidance_scale = 1.0 is not allowed: must be greater than 1"),
        (
            {"image_guidance_scale": 0.9},
            "image_guidance_scale = 0.9 is not allowed: must be greater than or equal to 1",
        ),
        ({"run": "../elsewhere"}, "run = '../elsewhere'"),
        ({"run": ".."}, r"run = '\.\.' is not allowed"),
        ({"run": "."}, r"run = '\.' is not allowed"),
        ({"run": ".features"}, r"run = '\.features' is not allowed"),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_allowed(parameters, values, named):
    with pytest.raises(ParameterError, match=named):
        check(values, parameters)


def test_all_refusals_come_at_once(parameters):
    with pytest.raises(ParameterError) as caught:
        check({"icp": 1, "ipc": -1, "lam": -1}, parameters)
    assert len(str(caught.value).splitlines()) == 3


def test_a_key_that_two_notebooks_declare_differently_is_refused(tmp_path):
    write_notebook(tmp_path, "00_first", "ipc: PositiveInt = 10  # images per class")
    write_notebook(tmp_path, "01_second", "ipc: PositiveInt = 20  # images per class")
    with pytest.raises(ParameterError, match="ipc is declared differently in 00_first and 01_second"):
        all_declared(tmp_path)


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("lam: 1e-4\nmu: 2.5e3\nname: e5\n")
    assert read_file(file) == {"lam": 1e-4, "mu": 2500.0, "name": "e5"}
    assert parse_value("1e-4") == 1e-4 and parse_value("[1, 2]") == [1, 2] and parse_value("grid") == "grid"


@pytest.mark.parametrize(("content", "named"), [("- a\n- b\n", "key: value"), ("a: [1\n", "not a YAML file")])
def test_a_params_file_that_is_not_flat_yaml_is_refused(tmp_path, content, named):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(ParameterError, match=named):
        read_file(file)


def test_a_params_file_is_data_only(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("ipc: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ParameterError, match="not a YAML file"):
        read_file(file)


def test_a_missing_params_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"nothing\.yaml"):
        read_file(tmp_path / "nothing.yaml")


def test_a_star_import_gives_the_types_that_notebooks_declare_and_nothing_else():
    given: dict = {}
    exec("from dc3.runs.parameters import *", given)
    del given["__builtins__"]
    assert given.keys() == {parameter.type_name for parameter in all_declared().values()} - {"str", "bool"}


def test_the_projects_notebooks_declare_every_parameter_with_a_known_type_and_a_help_line():
    for name in notebook_names():
        assert "run" in declared(name)
    parameters = all_declared()
    assert check({}, parameters).keys() == parameters.keys()
    assert all(parameter.help for parameter in parameters.values())


@pytest.mark.parametrize(
    ("choices", "table"),
    [
        ("Network", networks.NETWORKS),
        ("Dataset", datasets.DATASETS),
        ("Selection", strategies.STRATEGIES),
        ("Function", sampling.FUNCTIONS),
        ("Greedy", sampling.GREEDIES),
        ("Allocation", sampling.ALLOCATIONS),
        ("GradientLoss", gradients.LOSSES),
        ("BlendMode", [*blending.IMAGES_NEEDED, compensation.SOURCE_MODE]),
        ("Mix", students.TEMPERATURE),
        ("Precision", notebook_stage.AMP),
        ("EditPrecision", ["auto", *editor.DTYPES]),
        ("Method", strategies.METHODS),
        ("Baseline", [name for name, method in strategies.METHODS.items() if not method.edits]),
        ("Rival", {method.picked_by for method in strategies.METHODS.values()} - {None}),
        ("PCASolver", get_args(binning.PCASolver)),
        ("KMeansKind", get_args(binning.KMeansKind)),
    ],
)
def test_the_choices_of_a_parameter_are_those_that_the_code_knows(choices, table):
    assert sorted(get_args(getattr(parameter_types, choices))) == sorted(table)
