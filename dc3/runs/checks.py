"""Checks before a run of values, models and data that a stage would refuse hours later.

Every rule is a kernel's own; here it is called early, with the names of the parameters. Each check imports what it
needs, because some of it is slow to import.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dc3.generators import recipes
from dc3.machine import paths
from dc3.models import guidance, prompts
from dc3.runs.manifests import read_record
from dc3.runs.parameters import ParameterError, all_declared

if TYPE_CHECKING:
    from dc3.images.image_set import ImageSet

Values = Mapping[str, Any]
DIFFUSION_MODELS = {"vae": "vae_revision", "editor": "editor_revision"}  # parameter → the one with its revision
CROPS = {"factor": "crops_per_side", "num_crop": "crop_tries", "mipc": "crop_images"}  # argument of rded → parameter
OF_LORA = ("dataset", "class_names", "prompt_template", "lora_base", "lora_revision", "lora_rank", "lora_targets")
HUB_SECONDS = 10
MODEL_FILES = {"vae": ("config.json", "vae/config.json")}  # parameter → files of which a local folder has one
PIPELINE_FILES = ("model_index.json",)  # of the other models
STABLE_DIFFUSION_DOWNSCALING = 8  # pixels a side for each of a latent


def check_inputs(params: Values) -> None:
    """ParameterError when data, a model or Ray is missing, the image set is too small, or a value is refused.

    `params` may be those of some stages only: checks that need others are skipped.
    """
    check_values(params)
    if params.get("engine", "local") != "local":
        _check_engine(params)
    for name, revision in DIFFUSION_MODELS.items():
        if name in params:
            check_diffusion_model(name, params[name], params[revision])
    if _looks_local(params.get("teacher", "train")):
        _check_path("teacher", params["teacher"])
    for name in ("condensed_dir", "color_condensed_dirs", "feature_weights"):
        for path in _listed(params.get(name)):
            _check_path(name, path)
    if params.get("feature_weights") and params["feature_network"] != "teacher":
        _check_feature_weights(params)
    if "compared" in params:
        _check_picked(params)
    if "prompt_template" in params:
        _check_generator_models(params)
    if "dataset" in params:
        _check_image_set(params)


def check_values(params: Values) -> None:
    """ParameterError naming every parameter whose value a stage would refuse; absent stages are not checked."""
    problems = []
    for parameter, check in CHECKS.items():
        if parameter in params:
            try:
                check(params)
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ParameterError("\n".join(problems))


def _listed(value: str | list[str] | None) -> list[str]:
    """The paths that a parameter names: one, several, or (empty) none."""
    return [value] if value and isinstance(value, str) else list(value or [])


def _check_teacher(params: Values) -> None:
    from dc3.teacher import chosen

    if chosen(params) == "train":
        _check_networks("teacher_network", params, params["teacher_width"])


def _check_protocol(params: Values) -> None:
    from dc3.students import PARAMETERS, Protocol

    try:
        Protocol.of(params, None)
    except ValueError as error:
        raise _renamed(error, PARAMETERS) from None


def _check_factor(params: Values) -> None:
    if "image_size" in params:
        from dc3.models.augmentation import check_factor

        check_factor(params["factor"], params["image_size"])


def _check_storage(params: Values) -> None:
    if {"image_size", "edit_size"} <= params.keys():
        from dc3.condensed import Storage
        from dc3.strategies import METHODS

        Storage.of(params, params["image_size"], METHODS[params["method"]].edits)


def _check_vae_size(name: str, model: str, params: Values) -> None:
    """ValueError for a size that the VAE of the model, a parameter, does not take; on a hub: of Stable Diffusion's."""
    if model not in params:
        return
    from dc3.features import check_size, downscaling

    config = _vae_config(params[model])
    check_size(name, params[name], downscaling(config) if config else STABLE_DIFFUSION_DOWNSCALING)


def _vae_config(model: str) -> Values:
    """The configuration of a local model's VAE; {} for a model on a hub."""
    folder = Path(paths.model_location(model))
    return read_record(folder / "vae/config.json") or read_record(folder / "config.json") or {}


def _check_students(params: Values) -> None:
    for parameter in ("student_network", "cross_networks"):
        _check_networks(parameter, params, params["student_width"])


def _check_published(params: Values) -> None:
    if params["published_as"]:
        from dc3.runs import published

        published.table(params["published_as"])


def _check_networks(parameter: str, params: Values, width: int) -> None:
    """ValueError when a network of the parameter, a name or a list, does not suit the run's image size."""
    names = params[parameter] if isinstance(params[parameter], list) else [params[parameter]]
    for name in names if "image_size" in params else []:
        if refusal := _refusal(name, params["image_size"], width):
            raise ValueError(f"{parameter} = {params[parameter]!r}: {refusal}")


@cache  # a sweep has the same few networks in all its runs
def _refusal(network: str, image_size: int, width: int) -> str:
    from dc3.models import networks

    try:
        networks.check_size(network, image_size, width)
    except ValueError as error:
        return str(error)
    return ""


def _renamed(error: ValueError, names: Mapping[str, str]) -> ValueError:
    """The error with "argument = " replaced by "parameter = "; `names` maps arguments to parameters."""
    return ValueError(re.sub(r"\b(\w+)(?= = )", lambda found: names.get(found[1], found[1]), str(error)))


def _check_features(params: Values) -> None:
    if params["feature_network"] != "teacher":
        from dc3.models import feature_networks

        feature_networks.check_available(params["feature_network"])


def _check_feature_weights(params: Values) -> None:
    from dc3.models.feature_networks import feature_network

    try:
        feature_network(params["feature_network"], weights=paths.resolve(params["feature_weights"]))
    except (ValueError, OSError) as error:
        raise ParameterError(f"feature_weights = {params['feature_weights']!r}: {error}") from None


def _check_device(params: Values) -> None:
    from dc3.machine import devices  # brings torch

    devices.device(params["device"])


def _check_compile(name: str, params: Values) -> None:
    from dc3.machine import devices

    if params[name] and (reason := devices.why_no_compile(params.get("device", "auto"))):
        raise ValueError(f"{name} = True: torch.compile does not work on this machine ({reason}); give false")


def _check_generators(params: Values) -> None:
    if "lora" in params["generators"]:
        recipes.LoRASettings.of(params)
        if params["generate_size"]:
            _check_vae_size("generate_size", "lora_base", params)
    if "dit" in params["generators"] and not params["dit_base"]:
        _check_new_dit(recipes.DiTShape.of(params), params)


def _check_new_dit(shape: recipes.DiTShape, params: Values) -> None:
    """ValueError when tokens do not tile the latents of `vae`; a VAE on the hub is not checked."""
    from dc3.features import downscaling

    if config := _vae_config(params.get("vae", "")):
        shape.check_size(params["generate_size"] or params["image_size"], downscaling(config))


def _check_edit_by(params: Values) -> None:
    if params["edit_by"] == "grading":
        from dc3.models.grading import check_graded

        check_graded([*params["warm_prompts"], *params["cold_prompts"]])


CHECKS: dict[str, Callable[[Values], None]] = {  # a parameter of the stage → the check of its parameters
    "device": _check_device,
    "teacher_network": _check_teacher,
    "instruction": lambda params: prompts.check_instruction(params["instruction"]),
    "edit_by": _check_edit_by,
    "guidance_from": lambda params: guidance.check_interval(params["guidance_from"], params["guidance_until"]),
    "student_ema": _check_protocol,
    "encode_size": lambda params: _check_vae_size("encode_size", "vae", params),
    "edit_size": lambda params: _check_vae_size("edit_size", "editor", params),
    "stored_size": _check_storage,
    "factor": _check_factor,
    "student_network": _check_students,
    "published_as": _check_published,
    "feature_network": _check_features,
    "edit_compile": lambda params: _check_compile("edit_compile", params),
    "student_compile": lambda params: _check_compile("student_compile", params),
    "dit_patch": _check_generators,
}


def _check_engine(params: Values) -> None:
    from dc3.machine import engine  # brings torch

    try:
        engine.check(params["engine"], params["ray_address"])
    except (ImportError, ConnectionError) as error:
        raise ParameterError(str(error)) from None


def _check_picked(params: Values) -> None:
    """ParameterError unless 03 makes the picks that 04, 05, 06 and 07 use."""
    from dc3.strategies import METHODS  # brings torch

    for parameter in ("method", "baselines", "color_beside", "finetune_beside"):
        if parameter not in params:
            continue
        names = params[parameter] if isinstance(params[parameter], list) else [params[parameter]]
        lacking = [name for name in names if METHODS[name].picked_by not in (None, *params["compared"])]
        if lacking:
            raise ParameterError(
                f"{parameter} = {params[parameter]!r}: add {', '.join(lacking)} to compared, which is "
                f"{params['compared']!r} and names what 03_sampling picks"
            )


def _check_generator_models(params: Values) -> None:
    if "lora" in params["generators"]:
        check_diffusion_model("lora_base", params["lora_base"], params["lora_revision"])
    if "dit" in params["generators"] and params["dit_base"]:
        check_diffusion_model("dit_base", params["dit_base"], params["dit_revision"])


def _looks_local(value: str) -> bool:
    return value.startswith((".", "/", "~")) or Path(value).suffix in (".pt", ".pth", ".safetensors")


def _check_path(name: str, value: str) -> None:
    try:
        paths.resolve(value).stat()
    except (FileNotFoundError, NotADirectoryError):
        told = f"{name} = {value!r}: nothing there; relative paths are relative to {paths.WORKSPACE}"
        raise ParameterError(told) from None
    except OSError as error:
        raise ParameterError(f"{name} = {value!r}: {error.strerror}") from None


def _check_teacher_file(params: Values, classes: tuple[str, ...]) -> None:
    """ValueError unless the teacher is trained, a file whose network suits the run, or named weights of torchvision.

    A pickle that may run code is left to the stage.
    """
    from dc3 import teacher

    chosen, network = teacher.chosen(params), params["teacher_network"]
    path = paths.resolve(chosen)
    if chosen == "train":
        return
    if not path.exists():
        try:
            teacher.check_named(chosen, network, len(classes))
        except ValueError as error:
            raise _renamed(error, {"weights": "teacher"}) from None
    elif not path.is_file() or not params["allow_pickle"]:
        try:
            recipe = teacher.TeacherRecipe(network, 1, 0, params["teacher_width"])
            teacher.from_file(path, recipe, list(classes), params["image_size"], allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"teacher = {params['teacher']!r}: {error}") from None


def check_diffusion_model(name: str, value: str, revision: str = "") -> None:
    """ParameterError unless `value` is the shipped editor, a model's folder, or a hub id, cached or reachable."""
    if value and os.path.exists(folder := paths.model_location(value)):
        _check_model_folder(name, value, Path(folder))
        return
    if _looks_local(value):
        _check_path(name, value)
    import huggingface_hub

    try:
        if not any(_is_cached(value, file, revision) for file in ("model_index.json", "config.json")):
            huggingface_hub.HfApi().model_info(value, revision=revision or None, timeout=HUB_SECONDS)
    except (OSError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{name} = {value!r}: neither a folder here nor a model on the hub "
            f"({type(error).__name__}); give {paths.SHIPPED_EDITOR.name!r}, a folder in diffusers' format, or a hub id"
        ) from error


def _check_model_folder(name: str, value: str, folder: Path) -> None:
    expected = MODEL_FILES.get(name, PIPELINE_FILES)
    if not any((folder / file).is_file() for file in expected):
        raise ParameterError(f"{name} = {value!r}: has no {' or '.join(expected)}; give a folder in diffusers' format")
    fault = _fault_of_vae(value) if name == "vae" else _fault_of_pipeline(folder)
    if fault:
        raise ParameterError(f"{name} = {value!r}: {fault}; give a complete folder in diffusers' format")


def _fault_of_vae(value: str) -> str:
    return "" if _vae_config(value).get("block_out_channels") else "its config.json is not an autoencoder's"


def _fault_of_pipeline(folder: Path) -> str:
    """What is wrong with a pipeline's folder: nothing in its index, or a part in it that is not there."""
    index = read_record(folder / PIPELINE_FILES[0]) or {}
    parts = [part for part, kind in index.items() if isinstance(kind, list) and any(kind)]
    if not parts:
        return f"its {PIPELINE_FILES[0]} lists no parts of a pipeline"
    missing = [part for part in parts if not any((folder / part).glob("*.json"))]
    return f"it has no {', '.join(missing)}, which its {PIPELINE_FILES[0]} lists" if missing else ""


def _is_cached(model: str, file: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, file, revision=revision or None), str)


def _check_image_set(params: Values) -> None:
    from dc3.images import datasets

    try:
        for split in ("test", "train"):
            images = datasets.load(
                params["dataset"],
                split,
                data_dir=params["data_dir"] and str(paths.located(params["data_dir"])),
                images_per_class=params["images_per_class"] if split == "train" else 0,
            )
        datasets.check_ipc(images, params["ipc"])
        if "teacher" in params:
            _check_teacher_file(params, images.classes)
        _check_sure(params, int(images.counts().min()))
        _check_condensed_sets(params, images.classes)
        if "rded" in params.get("compared", []):
            _check_crops(params, images)
        if out := params.get("condensed_out"):
            _check_room(params, images.classes, out)
        if "dit" in params.get("generators", []):
            recipes.dit_rows(params["dit_rows"] if params["dit_base"] else [], len(images.classes))
        names = recipes.prompt_names(params.get("class_names", []), images.classes)
        if "lora" in params.get("generators", []) and "lora_base" in params:
            _check_lora(params, tuple(names))
    except (ValueError, OSError, RuntimeError) as error:
        raise ParameterError(str(error)) from None


def _check_condensed_sets(params: Values, classes: tuple[str, ...]) -> None:
    """ValueError for a set from elsewhere that a stage would refuse; every image of it is read."""
    own, beside = params.get("condensed_dir"), params.get("color_condensed_dirs")
    if own or beside:
        from dc3 import condensed  # brings pandas

        if own:
            condensed.load(paths.resolve(own), classes)
        condensed.load_beside([str(paths.resolve(path)) for path in beside or []], classes, "color_condensed_dirs")


def _check_sure(params: Values, smallest: int) -> None:
    """ValueError when the sure share of the smallest class is smaller than `ipc`."""
    from dc3.strategies import sure_count  # brings torch

    if (sure := sure_count(params.get("sure_share", 1), smallest)) < params["ipc"]:
        raise ValueError(
            f"sure_share = {params['sure_share']}: leaves {sure} of the smallest class's {smallest} images for "
            f"ipc = {params['ipc']} picks; raise sure_share, or lower ipc"
        )


def _check_crops(params: Values, images: "ImageSet") -> None:
    from dc3 import rded  # brings torch

    try:
        rded.check_crops(images.at(params["image_size"]), params["ipc"], 0, rded.Crops.of(params))
    except ValueError as error:
        raise ValueError(f"{_renamed(error, CROPS)}; or remove rded from compared") from None


def _check_lora(params: Values, classes: tuple[str, ...]) -> None:
    declared = all_declared()
    if all(params[name] == declared[name].default for name in OF_LORA):
        return  # the demo's; asking its model takes seconds
    template, rank, targets = params["prompt_template"], params["lora_rank"], tuple(params["lora_targets"])
    settings = recipes.LoRASettings(template, rank, targets)
    if refusal := _lora_refusal(params["lora_base"], classes, settings, params["lora_revision"]):
        raise ValueError(refusal)


@cache  # as _refusal
def _lora_refusal(base: str, classes: tuple[str, ...], settings: recipes.LoRASettings, revision: str) -> str:
    from dc3.generators import lora  # brings diffusers

    try:
        lora.check_base(base, classes, settings, revision)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def _check_room(params: Values, classes: tuple[str, ...], out: str) -> None:
    from dc3 import condensed  # brings torch

    names = condensed.image_names(len(classes), params["ipc"], condensed.SUFFIXES[params["stored_format"]])
    condensed.check_room_for(names, paths.located(out))
