"""Parameters: declared in the notebooks' `parameters` cells, typed here, checked before anything runs.

A notebook declares `name: Type = default  # help`, one per line. Types are Python's, pydantic's, or the choices below,
which messages name.
"""

import ast
import difflib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from dc3.machine import limits, paths
from dc3.runs.written import read_as, shown, shown_name, shown_path, values_of

LONGEST_TEXT = 1000  # characters; no system has longer paths, and no text encoder reads longer prompts
LONGEST_PART = 255  # bytes of a file's or folder's name
LONGEST_NAME = 200  # bytes; file systems give a name 255, and a lock's name is the run's with a stage's
KEPT_IN_NAMES = ("L", "M", "N", "Pc")  # Unicode's categories: letters, accents, digits, underscores


def _without_controls(text: str) -> str:
    """The text; ValueError for control characters other than tabs and ends of lines: no path or prompt has them."""
    if found := next((char for char in text if unicodedata.category(char) == "Cc" and char not in "\t\n"), None):
        raise ValueError(f"remove the control character {found!r}")
    return text


def _location(text: str) -> str:
    """The path, URL or hub id; ValueError for one with a name that no file system takes."""
    if (longest := max(len(part.encode()) for part in text.split("/"))) > LONGEST_PART:
        raise ValueError(f"a name in it has {longest} bytes; file systems take at most {LONGEST_PART}")
    return text


def _run_name(name: str) -> str:
    """A run's name in Unicode's composed form, so that equal names are one folder. ValueError unless it is a name."""
    name = unicodedata.normalize("NFC", name)
    if not name or not _is_kept(name[0]) or not all(char in ".-" or _is_kept(char) for char in name):
        raise ValueError("a name begins with a letter or digit and has only letters, digits, _, . and -")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"it has {size} bytes; a name has at most {LONGEST_NAME}")
    return name


def _is_kept(char: str) -> bool:
    return unicodedata.category(char).startswith(KEPT_IN_NAMES)


def _distinct(items: list) -> list:
    """The list; ValueError naming an entry that it has twice."""
    if twice := [item for item, times in Counter(items).items() if times > 1]:
        raise ValueError(f"it has {shown(twice[0])} twice")
    return items


def _zero_or_from(least: float) -> AfterValidator:
    """Refuses what lies between 0, which stands for the default, and `least`."""

    def check(value: float) -> float:
        if 0 < value < least:
            raise ValueError(f"must be 0, or at least {least:g}")
        return value

    return AfterValidator(check)


Distinct = AfterValidator(_distinct)
Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_without_controls)]
Location = Annotated[Text, AfterValidator(_location)]
PositiveInt = Annotated[int, Field(gt=0, le=limits.LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=limits.LARGEST)]
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
EditBy = Literal["editor", "grading", "vae"]
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
ColoringName = Literal["published", "gap"]
Mix = Literal["cutmix", "mixup", "none"]
Network = Literal[
    "conv3", "conv4", "conv5", "conv6", "resnet18", "resnet18_modified", "resnet50", "resnet101", "resnet101_modified",
    "efficientnet_b0", "mobilenet_v2", "vgg11", "alexnet", "vit_b_16", "swin_v2_t",
]  # fmt: skip
LatentsDtype = Literal["float16", "float32"]
PCASolver = Literal["auto", "full", "randomized"]
KMeansKind = Literal["full", "minibatch"]
GeneratorKind = Literal["dit", "lora"]
RivalList = Annotated[list[Rival], Distinct]
BaselineList = Annotated[list[Baseline], Distinct]
NetworkList = Annotated[list[Network], Distinct]
FolderList = Annotated[list[Location], Distinct]
GeneratorList = Annotated[list[GeneratorKind], Field(min_length=1), Distinct]
NameList = list[Text]  # two classes may have one name
NumberList = list[NonNegativeInt]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
GuidanceScale = Annotated[float, Field(gt=1, le=limits.LARGEST_SCALE)]  # diffusers guides above 1, with images from 1
ImageGuidanceScale = Annotated[float, Field(ge=1, le=limits.LARGEST_SCALE)]
SamplingGuidance = Annotated[float, Field(ge=1, le=limits.LARGEST_SCALE)]  # 1: none
ImageSize = Annotated[int, Field(ge=limits.SMALLEST_SIZE, le=limits.LARGEST_SIZE)]
ImageSizeOrZero = Annotated[int, Field(ge=0, le=limits.LARGEST_SIZE), _zero_or_from(limits.SMALLEST_SIZE)]
Weight = Annotated[float, Field(ge=0, le=limits.LARGEST_WEIGHT)]
Nats = Annotated[float, Field(ge=0, le=100)]
LearningRate = Annotated[float, Field(ge=limits.SMALLEST_RATE, le=limits.LARGEST_RATE)]
LearningRateOrZero = Annotated[float, Field(ge=0, le=limits.LARGEST_RATE), _zero_or_from(limits.SMALLEST_RATE)]
TemperatureOrZero = Annotated[float, Field(ge=0, le=limits.HOTTEST), _zero_or_from(limits.COLDEST)]
Channels = Annotated[int, Field(gt=0, le=limits.MOST_CHANNELS)]
Epochs = Annotated[int, Field(gt=0, le=limits.MOST_EPOCHS)]
TrainingSteps = Annotated[int, Field(gt=0, le=limits.MOST_STEPS)]
DenoisingSteps = Annotated[int, Field(gt=0, le=limits.NOISE_LEVELS)]
BatchSize = Annotated[int, Field(gt=0, le=limits.MOST_IN_BATCH)]
BatchSizeOrZero = Annotated[int, Field(ge=0, le=limits.MOST_IN_BATCH)]
UpTo1000 = Annotated[int, Field(gt=0, le=1000)]
UpTo100000 = Annotated[int, Field(gt=0, le=100_000)]
GPUShare = Annotated[float, Field(ge=limits.SMALLEST_GPU_SHARE, le=1)]
JpegQuality = Annotated[int, Field(ge=1, le=95)]
RunName = Annotated[str, AfterValidator(_run_name)]  # not "..", which is another folder
Seed = Annotated[int, Field(ge=0, le=limits.LARGEST_SEED)]
PromptList = Annotated[list[Text], Field(min_length=1)]  # a prompt given twice is drawn more often
SeedList = Annotated[list[Seed], Field(min_length=1), Distinct]
IpcList = Annotated[list[PositiveInt], Distinct]

WITHOUT_EFFECT = ("engine", "ray_address", "ray_actors", "ray_gpus")  # how a stage is computed, not its result

__all__ = [  # the types of parameters, which cells import by *
    "Allocation", "BaselineList", "BatchRule", "BatchSize", "BatchSizeOrZero", "BlendMode", "Channels", "ColoringName",
    "Dataset", "DenoisingSteps", "Device", "EditBy", "EditPrecision", "EncodeResampling", "EngineName", "Epochs",
    "FolderList", "Fraction", "Framing", "Function", "GPUShare", "GeneratorList", "GradientLoss", "Greedy",
    "GuidanceScale", "ImageGuidanceScale", "ImageSize", "ImageSizeOrZero", "IpcList", "JpegQuality", "KMeansKind",
    "LatentsDtype", "LearningRate", "LearningRateOrZero", "Location", "Method", "Mix", "NameList", "Nats", "Network",
    "NetworkList", "NonNegativeInt", "NumberList", "PCASolver", "PositiveInt", "Precision", "PromptList", "Resampling",
    "RivalList", "RunName", "Sampler", "SamplingGuidance", "Seed", "SeedList", "Selection", "Share", "StoredFormat",
    "TemperatureOrZero", "TrainingSteps", "UpTo1000", "UpTo100000", "Weight",
]  # fmt: skip

TYPES = {name: globals()[name] for name in __all__} | {kind.__name__: kind for kind in (int, float, bool, list)}
TYPES |= {"str": Text}
WORDINGS = {"Input should be": "must be", "List should have": "must have", "String should have": "must have"}
WORDINGS |= {" after validation": "", "Value error, ": "", "unable to parse raw data as a unicode string": "in UTF-8"}


class ParameterError(ValueError):
    """Refused parameters; the message names each one and what is allowed."""


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its type's name as written, its default, its help, the notebooks that declare it."""

    name: str
    type_name: str
    default: Any
    help: str
    notebooks: tuple[str, ...]


def notebook_names(folder: Path | None = None) -> list[str]:
    """Stage names in order: 00_teacher, 01_features, …, one per notebook of `folder` (default: notebooks/).

    ParameterError when there are none.
    """
    folder = folder or paths.NOTEBOOKS
    if not (names := sorted(path.stem for path in folder.glob("[0-9][0-9]_*.ipynb"))):
        raise ParameterError(f"{folder} has no notebooks: `dc3 init FOLDER` makes a folder that has; call dc3 in there")
    return names


def declared(notebook: str, folder: Path | None = None) -> dict[str, Parameter]:
    """The declarations in a notebook's parameters cell. ParameterError when the cell has anything else."""
    return declared_in(((folder or paths.NOTEBOOKS) / f"{notebook}.ipynb").read_text(encoding="utf-8"), notebook)


def declared_in(text: str, notebook: str) -> dict[str, Parameter]:
    """The same for the text of a notebook's file.

    Uses json and ast, because importing papermill takes three seconds.
    """
    source = _parameters_cell(text)
    lines = source.splitlines()
    found = {}
    for node in _statements(source, notebook):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise ParameterError(f"{notebook}.ipynb, parameters: {ast.unparse(node)!r} is not `name: Type = default`")
        name, comment = node.target.id, _comment_after(node.value, lines)
        if (kind := ast.unparse(node.annotation)) not in TYPES:
            raise ParameterError(f"{notebook}.ipynb, parameters: {name}: {kind}: choose a type of {', '.join(TYPES)}")
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise ParameterError(f"{notebook}.ipynb, parameters: the default of {name} is no plain value") from None
        found[name] = Parameter(name, kind, default, _help(comment), (notebook,))
    return found


def _statements(source: str, notebook: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"{notebook}.ipynb, parameters, line {error.lineno}: {error.msg}") from None


def _help(comment: str) -> str:
    """The text of a comment, without a formatter's mark behind it ("# what it is  # fmt: skip")."""
    return comment.strip(" #").split("  # ")[0]


def _comment_after(value: ast.expr, lines: list[str]) -> str:
    """The comment after a value on its last line; columns of `ast` count bytes of UTF-8."""
    assert value.end_lineno and value.end_col_offset is not None
    return lines[value.end_lineno - 1].encode()[value.end_col_offset :].decode()


def _parameters_cell(text: str) -> str:
    """The source of the cell with the tag `parameters`, or ""."""
    cells = json.loads(text)["cells"]
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


def check(values: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Defaults updated by `values`, of `read_file`, the command line or Python, read for their types.

    ParameterError naming every unknown key, wrong type and value out of range.
    """
    problems = [_unknown(key, parameters) for key in values if key not in parameters]
    fields: dict[str, Any] = {name: (_as_written(each), each.default) for name, each in parameters.items()}
    model = create_model("Parameters", __config__=ConfigDict(strict=True, allow_inf_nan=False), **fields)
    try:
        checked = model(**{key: value for key, value in values.items() if key in parameters}).model_dump()
    except ValidationError as error:
        problems += [_refusal(detail, parameters) for detail in error.errors()]
    if problems:
        raise ParameterError("\n".join(problems))
    return checked


def _as_written(parameter: Parameter) -> Any:
    """The parameter's type, which also takes what was written in a file or on the command line."""
    kind = TYPES[parameter.type_name]
    return Annotated[kind, BeforeValidator(lambda value: read_as(value, kind))]


def as_declared(values: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values read for their types, unchecked; those that cannot be read stay as written, for `check` to refuse."""
    found = dict(values)
    for name, value in values.items():
        with suppress(ValueError):
            found[name] = read_as(value, TYPES[parameters[name].type_name] if name in parameters else Any)
    return found


def _unknown(key: str, parameters: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(str(key)[:100], parameters, n=1)
    hint = f"did you mean {near[0]}?" if near else "`dc3 params` lists them all"
    return f"{shown_name(str(key))}: no notebook declares this parameter; {hint}"


def _refusal(detail: ErrorDetails, parameters: Mapping[str, Parameter]) -> str:
    name = str(detail["loc"][0])
    return f"{name} = {shown(detail['input'])} is not allowed: {_allowed(detail)} ({parameters[name].help})"


def _allowed(detail: ErrorDetails) -> str:
    allowed = detail["msg"]
    for theirs, ours in WORDINGS.items():
        allowed = allowed.replace(theirs, ours)
    return allowed


def problems_of(error: ValidationError) -> list[str]:
    """A line for each value that a recipe, a pydantic model, refuses."""
    names = (".".join(map(shown_name, map(str, detail["loc"]))) for detail in error.errors())
    return [
        f"{name} = {shown(detail['input'])} is not allowed: {_allowed(detail)}"
        for name, detail in zip(names, error.errors(), strict=True)
    ]


def decisive(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the result depends on."""
    return {key: value for key, value in params.items() if key not in WITHOUT_EFFECT}


def read_file(path: Path) -> dict[str, Any]:
    """A params file: keys and values as written, for `check`. ParameterError naming a file that is none."""
    try:
        return values_of(path)
    except ValueError as error:
        raise ParameterError(f"{shown_path(path)}: {error}") from None


def read_run_file(path: Path) -> dict[str, Any]:
    """The params file of one run, as `read_file`. ParameterError also for keys that no notebook declares."""
    values, parameters = read_file(path), all_declared()
    if unknown := [_unknown(key, parameters) for key in values if key not in parameters]:
        raise ParameterError("\n".join(f"{shown_path(path)}: {problem}" for problem in unknown))
    return values
