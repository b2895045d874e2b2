from typing import get_args

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from dc3 import binning, blending, compensation, gradients, sampling, strategies, students
from dc3.images import datasets
from dc3.models import editor, networks
from dc3.runs import notebook_stage
from dc3.runs import parameters as parameter_types
from dc3.runs.parameters import ParameterError, all_declared, check, declared, notebook_names, read_file
from dc3.runs.written import Argument


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
        "lam: Weight = 1.0  # redundancy",
        "guidance_scale: GuidanceScale = 4.0  # how strongly the instruction is followed",
        "image_guidance_scale: ImageGuidanceScale = 1.5  # how strongly the source is kept",
        'blend_mode: BlendMode = "gradient"  # how edits are joined',
        'warm_prompts: PromptList = ["sunny", "golden hour"]  # warm',
        "seeds: SeedList = [0]  # one student a seed",
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


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("n: int = 2 ** 4  # power", "the default of n is no plain value"),
        ("n: int = (", "parameters, line 1"),
        ("n: Int = 3  # type", "n: Int: choose a type of"),
        ("print(3)", "is not `name: Type = default`"),
    ],
)
def test_a_cell_that_declares_no_parameters_is_refused_by_name(tmp_path, cell, said):
    write_notebook(tmp_path, "00_x", cell)
    with pytest.raises(ParameterError, match=r"00_x\.ipynb, parameters") as refused:
        declared("00_x", tmp_path)
    assert said in str(refused.value)


def test_values_go_over_the_defaults(parameters):
    checked = check({"ipc": 50, "lam": 2}, parameters)
    assert checked == {
        "run": "demo", "ipc": 50, "lam": 2.0, "guidance_scale": 4.0, "image_guidance_scale": 1.5,
        "blend_mode": "gradient", "warm_prompts": ["sunny", "golden hour"], "seeds": [0],
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
        ({"run": "demo\n"}, r"run = 'demo\\n' is not allowed: a name begins with a letter"),
        ({"run": "ü" * 150}, "it has 300 bytes; a name has at most 200"),
        ({"lam": float("inf")}, "lam = inf is not allowed: must be a finite number"),
        ({"lam": float("nan")}, "lam = nan is not allowed: must be a finite number"),
        ({"guidance_scale": 1e30}, "guidance_scale = 1e.30 is not allowed: must be less than or equal to 100"),
        ({"warm_prompts": ["sun\0ny"]}, r"warm_prompts = 'sun\\x00ny' is not allowed: remove the control character"),
        ({"warm_prompts": ["x" * 1001]}, "must have at most 1000 characters"),
        ({"seeds": [0, 1, 0]}, r"seeds = \[0, 1, 0\] is not allowed: it has 0 twice"),
        ({"seeds": [-1]}, "seeds = -1 is not allowed: must be greater than or equal to 0"),
        ({"seeds": [2**70]}, "seeds = 1180591620717411303424 is not allowed: must be less than or equal to 4294967295"),
        ({"i\x1b[31mpc": 1}, r"'i\\x1b\[31mpc': no notebook declares this parameter"),
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


@pytest.mark.parametrize("name", ["2024", "no", "1e3", "010", "2024-01-05", "café"])
def test_a_run_may_be_named_by_a_word_that_yaml_takes_for_something_else(tmp_path, parameters, name):
    (tmp_path / "params.yaml").write_text(f"run: {name}\n", encoding="utf-8")
    assert check(read_file(tmp_path / "params.yaml"), parameters)["run"] == name
    assert check({"run": Argument(name)}, parameters)["run"] == name


def test_a_run_has_one_name_in_both_forms_of_unicode(parameters):
    assert check({"run": "cafe\u0301"}, parameters) == check({"run": "caf\u00e9"}, parameters)


def test_numbers_lists_and_yes_are_read_where_the_type_asks_for_them(tmp_path, parameters):
    (tmp_path / "params.yaml").write_text("lam: 1e-4\nipc: 20\nwarm_prompts: [no, 1e3]\n", encoding="utf-8")
    for values in (read_file(tmp_path / "params.yaml"), {"lam": Argument("1e-4"), "ipc": Argument("20")}):
        checked = check(values, parameters)
        assert (checked["lam"], checked["ipc"]) == (1e-4, 20)
    assert check(read_file(tmp_path / "params.yaml"), parameters)["warm_prompts"] == ["no", "1e3"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("010", "ipc = 010 is not allowed: YAML 1.1 reads it as 8"),
        ("1_000", "reads it as 1000"),
        ("0x1F", "reads it as 31"),
        ("1:30", "reads it as 90"),
        ("2 # two", "ipc = 2 # two .* beside the value"),
        ("1" * 5000, "a number has at most"),
        ("[" * 20_000, "nested too deeply"),
        ("9" * 20, "must be less than or equal to"),
        ("~", "ipc = None is not allowed"),
        ("[1", "not YAML: line 1"),
    ],
    ids=lambda value: value[:12],
)
def test_an_odd_number_is_refused_with_what_it_would_have_become(parameters, value, told):
    with pytest.raises(ParameterError, match=told) as caught:
        check({"ipc": Argument(value)}, parameters)
    assert len(str(caught.value)) < 500


def test_a_text_of_a_file_has_a_value(tmp_path, parameters):
    for written in ("", "~", "null"):
        (tmp_path / "params.yaml").write_text(f"run: {written}\n", encoding="utf-8")
        with pytest.raises(ParameterError, match=r"run = .* no value"):
            check(read_file(tmp_path / "params.yaml"), parameters)


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
