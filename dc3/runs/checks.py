"""Checks of data and models that need no hour: done once, before the first notebook of a run starts."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dc3.machine import paths
from dc3.runs.parameters import ParameterError
from dc3.runs.stage import read_json

DIFFUSION_MODELS = {"vae": "vae_revision", "editor": "editor_revision"}  # parameter → the one with its revision
HUB_SECONDS = 10


def check_inputs(params: dict[str, Any]) -> None:
    """ParameterError when the image set is not there or too small, a model or Ray not to be had, or values do not fit.

    Of `params` there may be some only: what needs others is then not asked.
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
        value = params.get(name) or []
        for path in [value] if isinstance(value, str) else value:
            _check_path(name, path)
    _check_picked(params)
    if "prompt_template" in params:
        _check_generators(params)
    if "dataset" in params:
        _check_image_set(params)


def _check_engine(params: dict[str, Any]) -> None:
    from dc3.machine import engine  # brings torch

    try:
        engine.check(params["engine"], params["ray_address"])
    except (ImportError, ConnectionError) as error:
        raise ParameterError(str(error)) from None


def _check_picked(params: dict[str, Any]) -> None:
    """What 04 condenses and 05 trains on must be among what 03 picks, and RDED must have crops enough to pick from."""
    if "compared" not in params:
        return
    from dc3.strategies import METHODS, RDED  # brings torch

    for parameter in ("method", "baselines", "color_beside", "finetune_beside"):
        if parameter not in params:
            continue
        names = params[parameter] if isinstance(params[parameter], list) else [params[parameter]]
        lacking = [name for name in names if METHODS[name].picked_by not in (None, *params["compared"])]
        if lacking:
            raise ParameterError(
                f"{parameter} = {params[parameter]!r}: {', '.join(lacking)} must stand in compared too, which is "
                f"{params['compared']!r}: 03_sampling makes the picks"
            )
    crops = params["ipc"] * params["crops_per_side"] ** 2
    if RDED in params["compared"] and crops > params.get("crop_images", crops):
        raise ParameterError(
            f"crop_images = {params['crop_images']}: rded needs ipc · crops_per_side² = {crops} images a class; raise "
            "crop_images, or leave rded out of compared"
        )


def _check_generators(params: dict[str, Any]) -> None:
    """What 07 fine-tunes must be there, and its shape and prompts must make sense, before the hours of 00 to 06."""
    if "lora" in params["generators"]:
        check_diffusion_model("lora_base", params["lora_base"], params["lora_revision"])
        if "{class}" not in params["prompt_template"]:
            raise ParameterError(
                f"prompt_template = {params['prompt_template']!r} has no {{class}}: the place where the class name goes"
            )
    if "dit" in params["generators"] and params["dit_base"]:
        check_diffusion_model("dit_base", params["dit_base"], params["dit_revision"])
    elif "dit" in params["generators"] and params["dit_width"] % params["dit_heads"]:
        raise ParameterError(f"dit_heads = {params['dit_heads']} must divide dit_width = {params['dit_width']}")


def _looks_local(value: str) -> bool:
    return value.startswith((".", "/", "~")) or Path(value).suffix in (".pt", ".pth", ".safetensors")


def _check_path(name: str, value: str) -> None:
    if not paths.resolve(value).exists():
        raise ParameterError(f"{name} = {value!r}: nothing is there (relative paths are relative to the repository)")


def check_diffusion_model(name: str, value: str, revision: str = "") -> None:
    """ParameterError unless `value` is the shipped editor, a folder, or a hub id that is cached or answers."""
    if Path(paths.model_location(value)).exists():
        return
    if _looks_local(value):
        _check_path(name, value)
    import huggingface_hub

    try:
        if not any(_is_cached(value, file, revision) for file in ("model_index.json", "config.json")):
            huggingface_hub.HfApi().model_info(value, revision=revision or None, timeout=HUB_SECONDS)
    except (OSError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{name} = {value!r}: no folder of that name here, and the model hub does not give it "
            f"({type(error).__name__}); give {paths.SHIPPED_EDITOR.name!r}, a folder in diffusers' format, or a hub id"
        ) from error


def _check_sure(params: dict[str, Any], smallest: int) -> None:
    """ValueError when the sure share of the smallest class is less than its picks."""
    from dc3.strategies import sure_count  # brings torch

    if (sure := sure_count(params.get("sure_share", 1), smallest)) < params["ipc"]:
        raise ValueError(
            f"sure_share = {params['sure_share']}: of the smallest class's {smallest} images that leaves {sure} for "
            f"ipc = {params['ipc']} picks; raise sure_share, or lower ipc"
        )


def _check_crops(params: dict[str, Any], smallest: int) -> None:
    """ValueError when the smallest class has fewer images than RDED makes its mosaics of."""
    if "rded" not in params.get("compared", []):
        return
    if (crops := params["ipc"] * params["crops_per_side"] ** 2) > smallest:
        raise ValueError(
            f"crops_per_side = {params['crops_per_side']}: rded needs ipc · crops_per_side² = {crops} images a class, "
            f"the smallest has {smallest}; lower crops_per_side or ipc, or leave rded out of compared"
        )


def _is_cached(model: str, file: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, file, revision=revision or None), str)


def _check_image_set(params: dict[str, Any]) -> None:
    from dc3.images import datasets  # brings torch, which a run of other notebooks need not wait for

    try:
        for split in ("test", "train"):
            images = datasets.load(
                params["dataset"],
                split,
                data_dir=params["data_dir"] and str(paths.located(params["data_dir"])),
                image_size=params["image_size"],
                images_per_class=params["images_per_class"] if split == "train" else 0,
            )
        datasets.check_ipc(images, params["ipc"])
        _check_condensed_out(params, len(images.classes))
        _check_sure(params, int(images.counts().min()))
        _check_crops(params, int(images.counts().min()))
        if "dit" in params.get("generators", []) and params["dit_base"]:
            check_rows(params["dit_rows"], len(images.classes))
        _check_class_names(params.get("class_names", []), images.classes)
    except (ValueError, OSError, RuntimeError) as error:
        raise ParameterError(str(error)) from None


def _check_condensed_out(params: dict[str, Any], classes: int) -> None:
    from dc3 import condensed  # brings torch

    if out := params.get("condensed_out"):
        condensed.check_room_for(condensed.image_names(classes, params["ipc"]), paths.located(out))


def _check_class_names(names: list[str], classes: tuple[str, ...]) -> None:
    if names and len(names) != len(classes):
        raise ValueError(
            f"class_names = {names}: {len(names)} names for {len(classes)} classes ({', '.join(classes[:5])} …): "
            "give one for each, in their order, or none"
        )


Values = dict[str, Any]
Problems = Iterator[str]
DIT_CLASSES = 1000  # of the checkpoints that dit_base may name


def check_values(params: Values) -> None:
    """ParameterError naming every parameter whose value a stage would refuse; stages that are left out ask nothing."""
    problems = [problem for asked, ask in CHECKS.items() if asked in params for problem in ask(params)]
    if problems:
        raise ParameterError("\n".join(problems))


def check_rows(rows: list[int], classes: int) -> None:
    """ValueError unless dit_rows is empty or has a number of its own for each class."""
    if rows and (len(rows) != classes or len(set(rows)) != classes or max(rows) >= DIT_CLASSES):
        raise ValueError(
            f"dit_rows = {rows}: expected {classes} different numbers below {DIT_CLASSES}, one for each class, or none"
        )


def _teacher(params: Values) -> Problems:
    if params["teacher"] == "train":
        yield from _networks("teacher_network", [params["teacher_network"]], params, params["teacher_width"])


def _crops(params: Values) -> Problems:
    if params["crops_per_side"] == 1:  # every image_size that is allowed holds one
        return
    from dc3.rded import SMALLEST_TILE  # brings torch

    most = params.get("image_size", 0) // SMALLEST_TILE
    if "rded" in params["compared"] and most and params["crops_per_side"] > most:
        yield (
            f"crops_per_side = {params['crops_per_side']}: at image_size = {params['image_size']} rded takes 1 to "
            f"{most}; or leave rded out of compared"
        )


def _colors(params: Values) -> Problems:
    instruction = params["instruction"]
    if "{p}" not in instruction:
        yield f"instruction = {instruction!r} has no {{p}}: the place where the prompt goes"
        return
    try:
        instruction.format(p="sunny")
    except (LookupError, ValueError, AttributeError) as error:
        yield f"instruction = {instruction!r}: {{p}} is the only pair of braces that it may have ({error!r})"


def _students(params: Values) -> Problems:
    if params["student_ema"] >= 1:
        yield f"student_ema = {params['student_ema']}: a decay from 0 (no averaging) to below 1"
    if params["student_batch_size"] == 1:
        yield "student_batch_size = 1: at least 2 images a step, or 0 for the published rule"
    size = params.get("image_size", 0)
    if size and params["factor"] > size:
        yield f"factor = {params['factor']}: patches a side, 1 to image_size = {size}"
    for parameter in ("student_network", "cross_networks"):
        names = params[parameter] if isinstance(params[parameter], list) else [params[parameter]]
        yield from _networks(parameter, names, params, params["student_width"])
    if params["published_as"]:
        from dc3.runs import published

        try:
            published.table(params["published_as"])
        except ValueError as error:
            yield str(error)


def _networks(parameter: str, names: list[str], params: Values, width: int) -> Problems:
    for name in names if "image_size" in params else []:
        if name.startswith("conv") and params["image_size"] >= 2 ** int(name.removeprefix("conv")):
            continue  # it halves the images so often; not asked of the network itself, which brings seconds of torch
        if refusal := _refusal(name, params["image_size"], width):
            yield f"{parameter} = {params[parameter]!r}: {refusal}"


@cache
def _refusal(network: str, image_size: int, width: int) -> str:
    """Why a network does not take images of a size, or "". On torch's meta device, which has shapes and no numbers."""
    import torch

    from dc3.models import networks

    try:
        with torch.device("meta"):
            networks.create(network, 2, image_size, width)
    except ValueError as error:
        return str(error)
    return ""


def _features(params: Values) -> Problems:
    name = params["feature_network"]
    if name == "inception" and importlib.util.find_spec("torch_fidelity") is None:
        yield "feature_network = 'inception' needs torch-fidelity: pip install torch-fidelity"
    if name in ("teacher", "inception"):
        return
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        yield f"feature_network = {name!r}: expected teacher, inception, or one of torchvision's: {', '.join(known)}"


def _new_dit(params: Values) -> Problems:
    """Of the small DiT, whose latents are those of `vae`: a hub's VAE is not asked for."""
    if "dit" not in params["generators"] or params["dit_base"]:
        return
    folder, size = Path(paths.model_location(params.get("vae", ""))), params["generate_size"] or params["image_size"]
    config = read_json(folder / "vae/config.json") or read_json(folder / "config.json") or {}
    if channels := config.get("block_out_channels"):
        shrinks = 2 ** (len(channels) - 1)
        if size % (shrinks * params["dit_patch"]):
            yield (
                f"dit_patch = {params['dit_patch']}: images of {size} px have latents of {size / shrinks:g}, which "
                "must be a multiple of it; choose another, or another generate_size"
            )


CHECKS: dict[str, Callable[[Values], Problems]] = {  # a parameter of the stage → what is asked of it
    "teacher_network": _teacher,
    "crops_per_side": _crops,
    "instruction": _colors,
    "student_network": _students,
    "feature_network": _features,
    "dit_patch": _new_dit,
}
