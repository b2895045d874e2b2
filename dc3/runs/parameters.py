"""Parameters: declared in the notebooks' `parameters` cells, typed here, checked before anything runs.

A notebook declares `name: Type = default  # help`, one per line. Types are Python's, pydantic's, or the choices below,
which messages name.
"""

import ast
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic import create_model as create_pydantic_model
from pydantic_core import ErrorDetails

from dc3.machine import paths

Dataset = Literal["scenes10", "cifar10", "cifar100", "imagefolder"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Framing = Literal["crop", "squash"]
Resampling = Literal["bilinear", "bicubic"]
EncodeResampling = Literal["nearest", "bilinear", "bicubic"]
StoredFormat = Literal["png", "jpeg"]
BatchRule = Literal["rded", "dc3"]
Precision = Literal["auto", "float32", "bfloat16"]
EngineName = Literal["local", "ray"]
EditPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Sampler = Literal["euler_a", "dpmpp_2m", "unipc"]
Selection = Literal["dc3", "submodular", "random", "herding", "kcenter", "dq"]
Method = Literal["dc3", "dc3_plain", "submodular", "random", "herding", "kcenter", "dq", "rded"]
Rival = Literal["submodular", "random", "herding", "kcenter", "dq", "rded"]
Baseline = Literal["dc3_plain", "submodular", "random", "herding", "kcenter", "dq", "rded"]
Function = Literal["GraphCut", "FacilityLocation", "LogDeterminant"]
Greedy = Literal["NaiveGreedy", "LazyGreedy", "StochasticGreedy", "LazierThanLazyGreedy"]
GradientLoss = Literal["softmax_ce", "ce"]
Allocation = Literal["proportional", "equal"]
BlendMode = Literal["gradient", "random", "grid", "fourfold_view", "warm", "cold", "none"]
Mix = Literal["cutmix", "mixup", "none"]
Network = Literal[
    "conv3", "conv4", "conv5", "conv6", "resnet18", "resnet18_modified", "resnet50", "resnet101", "resnet101_modified",
    "efficientnet_b0", "mobilenet_v2", "vgg11", "alexnet", "vit_b_16", "swin_v2_t",
]  # fmt: skip
LatentsDtype = Literal["float16", "float32"]
PCASolver = Literal["auto", "full", "randomized"]
KMeansKind = Literal["full", "minibatch"]
GeneratorKind = Literal["dit", "lora"]
RivalList = list[Rival]
BaselineList = list[Baseline]
NetworkList = list[Network]
FolderList = list[str]
GeneratorList = Annotated[list[GeneratorKind], Field(min_length=1)]
NameList = list[str]
NumberList = list[NonNegativeInt]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
GuidanceScale = Annotated[float, Field(gt=1)]  # diffusers does not guide at 1, or with an image scale below 1
ImageGuidanceScale = Annotated[float, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=8)]
JpegQuality = Annotated[int, Field(ge=1, le=95)]
RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # not "..", which is another folder
Seed = NonNegativeInt
PromptList = Annotated[list[str], Field(min_length=1)]
SeedList = Annotated[list[int], Field(min_length=1)]
IpcList = list[PositiveInt]

WITHOUT_EFFECT = ("engine", "ray_address", "ray_actors", "ray_gpus")  # how a stage is computed, not its result

__all__ = [  # the types of parameters, which cells import by *
    "Allocation",
    "BaselineList",
    "BatchRule",
    "BlendMode",
    "Dataset",
    "Device",
    "EditPrecision",
    "EncodeResampling",
    "EngineName",
    "FolderList",
    "Fraction",
    "Framing",
    "Function",
    "GeneratorList",
    "GradientLoss",
    "Greedy",
    "GuidanceScale",
    "ImageGuidanceScale",
    "ImageSize",
    "IpcList",
    "JpegQuality",
    "KMeansKind",
    "LatentsDtype",
    "Method",
    "Mix",
    "NameList",
    "Network",
    "NetworkList",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NumberList",
    "PCASolver",
    "PositiveFloat",
    "PositiveInt",
    "Precision",
    "PromptList",
    "Resampling",
    "RivalList",
    "RunName",
    "Sampler",
    "Seed",
    "SeedList",
    "Selection",
    "Share",
    "StoredFormat",
]  # fmt: skip

TYPES = {name: globals()[name] for name in __all__} | {kind.__name__: kind for kind in (int, float, str, bool, list)}


class ParameterError(ValueError):
    """Refused parameters; the message names each one and what is allowed."""


class FloatLoader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as a string; people mean a number."""


FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its type's name as written, its default, its help, the notebooks that declare it."""

    name: str
    type_name: str
    default: Any
    help: str
    notebooks: tuple[str, ...]


def notebook_names(folder: Path | None = None) -> list[str]:
    """Stage names in order: 00_teacher, 01_features, …, one per notebook of `folder` (default: notebooks/)."""
    return sorted(path.stem for path in (folder or paths.NOTEBOOKS).glob("[0-9][0-9]_*.ipynb"))


def declared(notebook: str, folder: Path | None = None) -> dict[str, Parameter]:
    """The declarations in a notebook's parameters cell. ParameterError when the cell has anything else.

    Uses json and ast, because importing papermill takes three seconds.
    """
    source = _parameters_cell((folder or paths.NOTEBOOKS) / f"{notebook}.ipynb")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise ParameterError(f"{notebook}.ipynb, parameters: {ast.unparse(node)!r} is not `name: Type = default`")
        name, comment = node.target.id, _comment_after(node.value, lines)
        default = ast.literal_eval(node.value)
        found[name] = Parameter(name, ast.unparse(node.annotation), default, _help(comment), (notebook,))
    return found


def _help(comment: str) -> str:
    """The text of a comment, without a formatter's mark behind it ("# what it is  # fmt: skip")."""
    return comment.strip(" #").split("  # ")[0]


def _comment_after(value: ast.expr, lines: list[str]) -> str:
    """The comment after a value on its last line; columns of `ast` count bytes of UTF-8."""
    assert value.end_lineno and value.end_col_offset is not None
    return lines[value.end_lineno - 1].encode()[value.end_col_offset :].decode()


def _parameters_cell(path: Path) -> str:
    """The source of the cell with the tag `parameters`, or ""."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return "".join(next(tagged, {"source": ""})["source"])


def all_declared(folder: Path | None = None) -> dict[str, Parameter]:
    """Every parameter of every notebook. ParameterError when two notebooks declare one name differently."""
    found: dict[str, Parameter] = {}
    for notebook in notebook_names(folder):
        for name, new in declared(notebook, folder).items():
            known = found.get(name)
            if known and (known.type_name, known.default, known.help) != (new.type_name, new.default, new.help):
                raise ParameterError(f"{name} is declared differently in {known.notebooks[0]} and {notebook}")
            notebooks = (*known.notebooks, notebook) if known else (notebook,)
            found[name] = Parameter(name, new.type_name, new.default, new.help, notebooks)
    return found


def check(values: dict[str, Any], parameters: dict[str, Parameter]) -> dict[str, Any]:
    """Defaults updated by `values`. ParameterError naming every unknown key, wrong type and value out of range."""
    problems = [_unknown(key, parameters) for key in values if key not in parameters]
    fields: dict[str, Any] = {
        name: (TYPES[parameter.type_name], parameter.default) for name, parameter in parameters.items()
    }
    model = create_pydantic_model("Parameters", __config__=ConfigDict(strict=True), **fields)
    try:
        checked = model(**{key: value for key, value in values.items() if key in parameters}).model_dump()
    except ValidationError as error:
        problems += [_refusal(detail, parameters) for detail in error.errors()]
    if problems:
        raise ParameterError("\n".join(problems))
    return checked


def _unknown(key: str, parameters: dict[str, Parameter]) -> str:
    near = difflib.get_close_matches(key, parameters, n=1)
    hint = f"did you mean {near[0]}?" if near else "`dc3 params` lists them all"
    return f"{key}: no notebook declares this parameter; {hint}"


def _refusal(detail: ErrorDetails, parameters: dict[str, Parameter]) -> str:
    name = str(detail["loc"][0])
    allowed = detail["msg"].replace("Input should be", "must be")
    return f"{name} = {detail['input']!r} is not allowed: {allowed} ({parameters[name].help})"


def decisive(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the result depends on."""
    return {key: value for key, value in params.items() if key not in WITHOUT_EFFECT}


def read_file(path: Path) -> dict[str, Any]:
    """A params file: flat keys, data only. ParameterError when it is missing, not YAML, or not flat."""
    try:
        values = yaml.load(path.read_text(), FloatLoader) or {}
    except FileNotFoundError:
        raise ParameterError(f"{path}: no such params file; params/ holds examples") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def parse_value(text: str) -> Any:
    """The value of `-p KEY VALUE` as a params file would read it. ParameterError when it is not YAML."""
    try:
        return yaml.load(text, FloatLoader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{text!r} is not a YAML value: {' '.join(str(error).split())}") from None
