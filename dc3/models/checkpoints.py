"""Teachers on disk, dc3's and others'; and the check that a teacher has the data's classes in their order."""

import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dc3.machine.files import replacing
from dc3.models import networks

METADATA = "dc3.teacher"
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
    """Reads what `save` wrote, in eval mode. ValueError for another kind of file, FileNotFoundError for none."""
    path = _existing(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[METADATA])
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a teacher saved by dc3 ({error!r}): use load_foreign") from error
    width, layout = about.pop("width") or 128, about.pop("layout", networks.OURS)  # older files have no layout
    model = networks.create(about["network"], len(about["classes"]), about["image_size"], width, layout=layout)
    _fill(model, weights, path)
    return Teacher(model.to(device).to(memory_format=torch.channels_last).eval(), **about)


def load_foreign(
    path: Path | str, network: str, num_classes: int, image_size: int, width: int = 128, allow_pickle: bool = False
) -> nn.Module:
    """Reads a checkpoint made elsewhere (RDED's observers, plain or wrapped state dicts, safetensors), in eval mode.

    Unwraps "model", "state_dict", …, strips "module." from names, and knows RDED's names for ConvNets.
    ValueError names the weights that are missing, left over or of another shape.
    allow_pickle=True also reads files with more than weights; such a file can run any code while it is read.
    """
    path = _existing(path)
    model = networks.create(network, num_classes, image_size, width)
    if path.suffix == ".safetensors":
        state = safetensors.torch.load_file(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path} cannot be read as weights only ({reason}): save its state_dict alone, or, if you trust its "
                "source, set allow_pickle: true, which lets it run any code"
            ) from error
    weights = _unwrapped(state)
    if isinstance(model, networks.ConvNet):
        weights = {_from_rded(name, model.depth): tensor for name, tensor in weights.items()}
    _fill(model, weights, path)
    return model.to(memory_format=torch.channels_last).eval()


def _existing(path: Path | str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no teacher at {path}: train one, or give the path of a checkpoint")
    return Path(path)


def _unwrapped(state: dict) -> dict[str, Tensor]:
    while isinstance(state, dict) and (inner := [state[k] for k in WRAPPERS if isinstance(state.get(k), dict)]):
        state = inner[0]
    if not isinstance(state, dict):
        return {}
    prefixes = r"^(module\.|_orig_mod\.)+"
    return {re.sub(prefixes, "", name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


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
    model.load_state_dict(weights, strict=False)


def check_classes(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> None:
    """ValueError naming the difference unless both lists have the same names in the same order."""
    data, teacher = list(data_classes), list(teacher_classes)
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
