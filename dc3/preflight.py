"""Checks of data and models that need no hour: done once, before the first notebook of a run starts."""

from pathlib import Path
from typing import Any

from dc3 import data, paths
from dc3.parameters import ParameterError

MODEL_PARAMETERS = ("vae", "editor", "teacher")


def check_inputs(params: dict[str, Any]) -> None:
    """ParameterError when the image set is not there or too small for `ipc`, or a model's path does not exist."""
    for name in MODEL_PARAMETERS:
        if name in params:
            check_model_path(name, params[name])
    try:
        images = data.load(
            params["dataset"],
            "train",
            data_dir=params["data_dir"] and str(paths.resolve(params["data_dir"])),
            image_size=params["image_size"],
            images_per_class=params["images_per_class"],
        )
        data.check_ipc(images, params["ipc"])
    except (ValueError, OSError) as error:
        raise ParameterError(str(error)) from None


def check_model_path(name: str, value: str) -> None:
    """Refuses a model parameter that looks like a local path and is not there; hub ids and keywords pass."""
    looks_local = value.startswith((".", "/", "~")) or Path(value).suffix in (".pt", ".pth", ".safetensors")
    if looks_local and not paths.resolve(value).exists():
        raise ParameterError(f"{name} = {value!r}: nothing is there; give a folder or file that exists, or a hub id")
