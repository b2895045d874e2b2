"""Teachers on disk, dc3's and others'; and the check that a teacher has the data's classes in their order."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dc3.machine.files import composed, first_line, replacing
from dc3.models import networks

METADATA = "dc3.teacher"
ABOUT = {"network": str, "classes": list, "image_size": int}  # what `save` writes about every teacher
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


@dataclass(frozen=True)
class Teacher:
    """A trained network and its training data; `classes` in the order of its outputs."""

    model: nn.Module
    network: str
    classes: list[str]
    image_size: int
    accuracy: float | None = None  # top-1 fraction on the test set it was saved with


def save(
    model: nn.Module,
    path: Path | str,
    *,
    network: str,
    classes: Sequence[str],
    image_size: int,
    accuracy: float | None = None,
) -> None:
    """Writes a teacher as safetensors, with what `load` needs as metadata; complete or not at all."""
    about = {"network": network, "classes": list(classes), "image_size": image_size, "accuracy": accuracy}
    about["width"] = getattr(model, "width", None)
    about["layout"] = getattr(model, "layout", networks.OURS)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as partial:
        safetensors.torch.save_file(weights, partial, metadata={METADATA: json.dumps(about)})


def load(path: Path | str, device: str | torch.device = "cpu") -> Teacher:
    """Reads what `save` wrote, in eval mode. ValueError for another or a damaged file, FileNotFoundError for none."""
    path = _existing(path)
    written = _metadata(path).get(METADATA)
    if written is None:
        raise ValueError(f"{path} is not a teacher saved by dc3: use load_foreign")
    about = _about(written, path)
    width, layout = about.pop("width", None), about.pop("layout", networks.OURS)  # older files have none
    try:
        model = networks.create(
            about["network"], len(about["classes"]), about["image_size"], width or networks.WIDTH, layout=layout
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is a damaged teacher: {first_line(error)}") from error
    _fill(model, safetensors.torch.load_file(path), path)
    return Teacher(model.to(device).to(memory_format=torch.channels_last).eval(), **about)


def is_ours(path: Path | str) -> bool:
    """Whether `save` wrote the file, which `load` then reads. ValueError for a .safetensors file that is none."""
    path = _existing(path)
    return path.suffix == ".safetensors" and METADATA in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({first_line(error)}): replace it") from error


def _about(written: str, path: Path) -> dict[str, Any]:
    """What `save` wrote about a teacher. ValueError when that is not what it writes."""
    try:
        about = json.loads(written)
        odd = [key for key, kind in ABOUT.items() if not isinstance(about.get(key), kind)]
        odd += ["classes"] if not odd and not all(isinstance(name, str) for name in about["classes"]) else []
    except (ValueError, AttributeError, RecursionError):
        odd = [METADATA]
    if odd:
        raise ValueError(f"{path} is a damaged teacher: its metadata has no valid {', '.join(odd)}; replace it")
    return {key: about[key] for key in (*ABOUT, "accuracy", "width", "layout") if key in about}


def load_foreign(
    path: Path | str,
    network: str,
    num_classes: int,
    image_size: int,
    width: int = networks.WIDTH,
    allow_pickle: bool = False,
) -> nn.Module:
    """Reads a checkpoint made elsewhere (RDED's observers, plain or wrapped state dicts, safetensors), in eval mode.

    Unwraps "model", "state_dict", …, strips "module." from names, and knows RDED's names for ConvNets.
    ValueError names the weights that are missing, left over or of another shape.
    allow_pickle=True also reads files with more than weights; such a file can run any code while it is read.
    """
    path = _existing(path)
    model = networks.create(network, num_classes, image_size, width)
    if path.suffix == ".safetensors":
        _metadata(path)
        state = safetensors.torch.load_file(path)
    else:
        state = _unpickled(path, allow_pickle)
    weights = _unwrapped(state)
    if isinstance(model, networks.ConvNet):
        weights = {_from_rded(name, model.depth): tensor for name, tensor in weights.items()}
    _fill(model, weights, path)
    return model.to(memory_format=torch.channels_last).eval()


def _unpickled(path: Path, allow_pickle: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch and pickle raise errors of many kinds for what is not a checkpoint
        reason = first_line(error)
        if "global" in str(error).lower() and not allow_pickle:
            raise ValueError(
                f"{path} cannot be read as weights only ({reason}): save its state_dict alone, or, if you trust its "
                "source, set allow_pickle: true, which lets it run any code"
            ) from error
        raise ValueError(f"{path} is not a checkpoint ({reason}): give a file with a state_dict") from error


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: give the path of a checkpoint")
    if not path.exists():
        raise FileNotFoundError(f"no teacher at {path}: train one, or give the path of a checkpoint")
    return path


def _unwrapped(state: Any) -> dict[str, Tensor]:
    """The weights in a checkpoint: below names of WRAPPERS, at most once each, because a pickle can contain itself."""
    for _ in WRAPPERS:
        inner = [state[k] for k in WRAPPERS if isinstance(state.get(k), dict)] if isinstance(state, dict) else []
        state = inner[0] if inner else state
    if not isinstance(state, dict):
        return {}
    prefixes = r"^(module\.|_orig_mod\.)+"
    tensors = {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    return {re.sub(prefixes, "", name): tensor for name, tensor in tensors.items()}


def _from_rded(name: str, depth: int) -> str:
    """RDED's layers.conv.0.weight is our 0.0.weight, layers.norm.0 our 0.1, classifier our last layer."""
    name = re.sub(r"^layers\.conv\.(\d+)\.", r"\1.0.", name)
    name = re.sub(r"^layers\.norm\.(\d+)\.", r"\1.1.", name)
    return re.sub(r"^classifier\.", f"{depth + 1}.", name)


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    misfits = {
        "missing": [n for n in own if n not in weights and not n.endswith("num_batches_tracked")],
        "left over": [n for n in weights if n not in own],
        "of another shape": [
            f"{n} {tuple(weights[n].shape)} instead of {tuple(own[n].shape)}"
            for n in own
            if n in weights and weights[n].shape != own[n].shape
        ],
    }
    found = [f"{len(names)} {how} ({', '.join(names[:3])})" for how, names in misfits.items() if names]
    if found:
        raise ValueError(f"{path} does not fit the network: {'; '.join(found)}. Check network, num_classes, image_size")
    if broken := [name for name in own if name in weights and not weights[name].isfinite().all()]:
        raise ValueError(f"{path} has weights that are not finite ({', '.join(broken[:3])}): train the teacher again")
    model.load_state_dict(weights, strict=False)


def check_classes(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> None:
    """ValueError naming the difference unless both lists have the same names, in any form of Unicode, in one order."""
    data, teacher = composed(data_classes), composed(teacher_classes)
    if data == teacher:
        return
    unknown, absent = [c for c in data if c not in teacher], [c for c in teacher if c not in data]
    if sorted(data) != sorted(teacher):
        raise ValueError(
            f"the teacher was trained on other classes: {len(unknown)} only in the data ({', '.join(unknown[:5])}), "
            f"{len(absent)} only in the teacher ({', '.join(absent[:5])})"
        )
    first = next(i for i, pair in enumerate(zip(data, teacher, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"the teacher has the classes in another order: its output {first} is {teacher[first]!r}, "
        f"the data's class {first} is {data[first]!r}. Reorder the data's classes, or train a teacher on them"
    )
