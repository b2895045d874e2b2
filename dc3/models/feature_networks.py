"""Feature networks, which compare image sets: the run's teacher, torch-fidelity's Inception, torchvision's."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dc3.machine.files import first_line
from dc3.models.augmentation import IMAGENET_MEAN, normalise
from dc3.models.evaluation import weights_digest
from dc3.models.networks import last_linear

Extract = Callable[[Tensor], tuple[Tensor, Tensor]]  # uint8 (b, H, W, 3) -> features (b, d), logits (b, C)
NO_TORCH_FIDELITY = "feature_network = 'inception': run pip install torch-fidelity, or choose another network"
UNLOADABLE = (OSError, RuntimeError, UnpicklingError)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network from uint8 (b, H, W, 3) on `device` to features (b, d) and logits (b, C).

    `fingerprint` identifies the network by its weights; "" when they are unknown.
    """

    name: str
    extract: Extract
    device: torch.device
    fingerprint: str = ""

    def label(self, metric: str) -> str:
        """The name of a score, such as FID-teacher, so that nobody mistakes it for FID-inception."""
        return f"{metric}-{self.name}"


def feature_network(
    name: str,
    *,
    teacher: nn.Module | None = None,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """The network called `feature_network` in a params file.

    "teacher": the given `teacher`. "inception": the Inception v3 of torch-fidelity. Any other name: torchvision's, with
    its default ImageNet weights, at their image size. `weights`: a local file instead of the download.
    Raises ValueError or FileNotFoundError naming the parameter and what to do.
    """
    _check_name(name)
    device = torch.device(device)
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"feature_weights = {str(weights)!r}: no such file; expected the weights of {name!r}")
    if name == "teacher":
        if teacher is None:
            raise ValueError("feature_network = 'teacher': pass teacher=, or choose another network")
        return classifier_network(teacher.to(device), "teacher")
    if name == "inception":
        return _inception(weights, device)
    return _torchvision(name, weights, device)


def check_available(name: str) -> None:
    """ValueError for an unknown network, or one whose library is not installed."""
    _check_name(name)
    if name == "inception" and importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError(NO_TORCH_FIDELITY)


def _check_name(name: str) -> None:
    if name in ("teacher", "inception"):
        return
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"feature_network = {name!r}: choose teacher, inception, or torchvision's {', '.join(known)}")
    if tuple(models.get_model_weights(name).DEFAULT.transforms().mean) != IMAGENET_MEAN:  # efficientnet_v2_l
        raise ValueError(f"feature_network = {name!r}: its weights expect another normalisation; choose another")


def classifier_network(model: nn.Module, name: str, size: int | None = None) -> FeatureNetwork:
    """Features of a classifier: the input of its last linear layer, for normalised images of `size` px (None: as is).

    A flattened map (as in a ConvNet) is averaged over its area: 128 features instead of 128·4·4, so that a few hundred
    images give a covariance, in milliseconds. `extract` raises ValueError for images that do not suit the model.
    """
    model = model.eval()
    device, linear = next(model.parameters()).device, last_linear(model)

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = normalise(images)
        if size is not None:
            pixels = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        with _recording(model, linear) as seen:
            try:
                logits = model(pixels)
            except torch.OutOfMemoryError:  # also a RuntimeError, but not about the size
                raise
            except RuntimeError as error:
                height, width = pixels.shape[-2:]
                raise ValueError(
                    f"feature_network = {name!r} cannot take images of {height}×{width} px: {first_line(error)}"
                ) from error
        return _pooled(seen["embedding"], seen.get("map")), logits

    return FeatureNetwork(name, extract, device, f"{type(model).__name__} {size} {weights_digest(model)}")


@contextmanager
def _recording(model: nn.Module, linear: nn.Linear) -> Iterator[dict[str, Tensor]]:
    """The input of the last `linear` layer, and the last map (b, c, h, w) that a module returned before it."""
    seen: dict[str, Tensor] = {}

    def keep_map(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and "embedding" not in seen:
            seen["map"] = output

    def keep_embedding(_module: nn.Module, inputs: tuple) -> None:
        seen["embedding"] = inputs[0]

    handles = [module.register_forward_hook(keep_map) for module in model.modules()]
    handles.append(linear.register_forward_pre_hook(keep_embedding))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _pooled(embedding: Tensor, last_map: Tensor | None) -> Tensor:
    if last_map is not None and torch.equal(last_map.flatten(1), embedding):
        return last_map.mean(dim=(2, 3))
    return embedding


def _inception(weights: str | Path | None, device: torch.device) -> FeatureNetwork:
    from torchmetrics.image.fid import NoTrainInceptionV3  # seconds, which the teacher's features do not need

    try:
        if weights is not None:
            torch.load(weights, "cpu", weights_only=True)  # torch-fidelity would run code hidden in the file
        path = None if weights is None else str(weights)
        model = NoTrainInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], path).to(device)
    except ModuleNotFoundError as error:
        raise ValueError(NO_TORCH_FIDELITY) from error
    except torch.OutOfMemoryError:  # the GPU is full; the weights loaded
        raise
    except UNLOADABLE as error:
        raise FileNotFoundError(
            f"feature_network = 'inception': weights cannot be loaded ({first_line(error)}): connect to the network, "
            "or give feature_weights, the path of torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
        ) from error

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        return model._torch_fidelity_forward(images.permute(0, 3, 1, 2))

    return FeatureNetwork("inception", extract, device, weights_digest(model))


def _torchvision(name: str, weights: str | Path | None, device: torch.device) -> FeatureNetwork:
    from torchvision.models import get_model, get_model_weights

    default = get_model_weights(name).DEFAULT
    try:
        state = default.get_state_dict() if weights is None else torch.load(weights, "cpu", weights_only=True)
        model = get_model(name, weights=None)
        model.load_state_dict(state)
        if hasattr(model, "transform_input"):  # googlenet and inception_v3: their weights expect another normalisation
            model.transform_input = True
    except UNLOADABLE as error:
        raise FileNotFoundError(
            f"feature_network = {name!r}: weights cannot be loaded ({first_line(error)}): connect to the network, or "
            f"give feature_weights, the path of {default.url.rsplit('/', 1)[1]}"
        ) from error
    return classifier_network(model.to(device), name, size=default.transforms().crop_size[0])
