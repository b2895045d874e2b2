"""Checks of values by rule and in a moment: what a stage would refuse after the hours before it."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dc3.machine import paths
from dc3.runs.parameters import ParameterError
from dc3.runs.stage import read_json

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
