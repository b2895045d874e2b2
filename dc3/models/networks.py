"""Teacher and student networks: ConvNet-D and torchvision's, with the stems that small images need.

torchvision is imported where one of its networks is made: it brings torch's compiler, and ConvNets need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torchvision.models import VGG, AlexNet

WIDTH = 128  # channels of conv3 … conv6, where none are given: the published number
OURS, TORCHVISION = "dc3", "torchvision"  # layouts: stems for small images, or as torchvision's weights need


class ConvNet(nn.Sequential):
    """ConvNet-D (Gidaris & Komodakis, 2018; the condensation literature's default): D blocks, then one linear layer.

    A block is 3×3 convolution, batch norm, ReLU, 2×2 average pool. Takes (n, 3, S, S) with S ≥ 2^D, gives (n, classes).
    """

    def __init__(self, depth: int, num_classes: int, image_size: int, width: int = WIDTH):
        side = image_size // 2**depth
        if side == 0:
            fits = ", ".join(f"conv{d}" for d in range(3, 7) if image_size >= 2**d) or "another network"
            raise ValueError(
                f"network = 'conv{depth}': halves the image {depth} times and needs image_size ≥ {2**depth}, "
                f"got {image_size}; at this size choose {fits}"
            )
        blocks = [self._block(3 if d == 0 else width, width) for d in range(depth)]
        super().__init__(*blocks, nn.Flatten(), nn.Linear(width * side * side, num_classes))
        self.depth, self.width = depth, width

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.AvgPool2d(2))


@dataclass(frozen=True)
class Network:
    """How to build a network, `build(num_classes, image_size, width)`, and its learning rates."""

    build: Callable[[int, int, int], nn.Module]
    lr: float  # AdamW, student (published)
    teacher_lr: float = 0.1  # peak of SGD's one cycle; networks without batch norm diverge at 0.1
    pretrained: bool = True  # torchvision has weights for this layout


def _convnet(depth: int) -> Callable[[int, int, int], nn.Module]:
    return lambda classes, size, width: ConvNet(depth, classes, size, width)


def _untrained(name: str, classes: int) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=classes)


def _torchvision(name: str) -> Callable[[int, int, int], nn.Module]:
    return lambda classes, size, width: _untrained(name, classes)


def _modified(name: str) -> Callable[[int, int, int], nn.Module]:
    """RDED's ResNet for small images: 3×3 stem of stride 1, no max-pool."""

    def build(classes: int, size: int, width: int) -> nn.Module:
        model: Any = _untrained(name, classes)
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        return model

    return build


def _mobile(name: str) -> Callable[[int, int, int], nn.Module]:
    """Five halvings leave one pixel of a 32 px image: up to 64 px the first convolution keeps the size."""

    def build(classes: int, size: int, width: int) -> nn.Module:
        model: Any = _untrained(name, classes)
        if size <= 64:
            model.features[0][0].stride = (1, 1)
        return model

    return build


def _vgg11(classes: int, size: int, width: int) -> nn.Module:
    model: Any = _untrained("vgg11", classes)
    return _unstretched(model, size, classifier_index=0)


def _alexnet(classes: int, size: int, width: int) -> nn.Module:
    """A stem of stride 4 is made for 224 px and collapses at 32: it shrinks with the image (32: 1, 64: 2, 128: 4)."""
    model: Any = _untrained("alexnet", classes)
    model.features[0].stride = (min(4, max(1, size // 32)),) * 2
    return _unstretched(model, size, classifier_index=1)


def _unstretched(model: VGG | AlexNet, image_size: int, classifier_index: int) -> nn.Module:
    """Puts the head on the final map: torchvision stretches a 1×1 map to 7×7 copies, each with its own weights."""
    from torchvision.models import VGG

    channels, side = _final_map(model.features, image_size)
    if side >= model.avgpool.output_size[0]:
        return model
    old = model.classifier[classifier_index]
    new = nn.Linear(channels * side * side, old.out_features)
    if isinstance(model, VGG):  # as its constructor does
        nn.init.normal_(new.weight, 0, 0.01)
        nn.init.zeros_(new.bias)
    model.avgpool = nn.AdaptiveAvgPool2d(side)
    model.classifier[classifier_index] = new
    return model


@torch.no_grad()
def _final_map(features: nn.Module, image_size: int) -> tuple[int, int]:
    return tuple(features(torch.zeros(1, 3, image_size, image_size)).shape[1:3])


def _vit_b_16(classes: int, size: int, width: int) -> nn.Module:
    """ViT-B with 16 px patches from 128 px on; below, patches of an eighth of the side: 64 tokens instead of 4."""
    from torchvision.models import VisionTransformer

    patch = min(16, max(1, size // 8))
    if size % patch:
        raise ValueError(
            f"network = 'vit_b_16': cuts {patch} px patches at image_size {size}; use a multiple of {patch}"
        )
    return VisionTransformer(size, patch, 12, 12, 768, 3072, num_classes=classes)


def _swin_v2_t(classes: int, size: int, width: int) -> nn.Module:
    """Swin V2-T; below 128 px patches of a sixteenth of the side (at most 4 px) and windows of 4 tokens, not 8."""
    from torchvision.models import swin_transformer

    patch = min(4, max(1, size // 16))
    window = 8 if size >= 128 else 4
    return swin_transformer.SwinTransformer(
        patch_size=[patch, patch],
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[window, window],
        stochastic_depth_prob=0.2,
        num_classes=classes,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    )


IMAGENET_CLASSES = 1000  # of torchvision's weights

NETWORKS = {
    "conv3": Network(_convnet(3), 1e-3, pretrained=False),
    "conv4": Network(_convnet(4), 1e-3, pretrained=False),
    "conv5": Network(_convnet(5), 1e-3, pretrained=False),
    "conv6": Network(_convnet(6), 1e-3, pretrained=False),
    "resnet18": Network(_torchvision("resnet18"), 1e-3),
    "resnet18_modified": Network(_modified("resnet18"), 1e-3, pretrained=False),
    "resnet50": Network(_torchvision("resnet50"), 1e-3),
    "resnet101": Network(_torchvision("resnet101"), 1e-3),
    "resnet101_modified": Network(_modified("resnet101"), 1e-3, pretrained=False),
    "efficientnet_b0": Network(_mobile("efficientnet_b0"), 2e-3),
    "mobilenet_v2": Network(_mobile("mobilenet_v2"), 2.5e-3),
    "vgg11": Network(_vgg11, 5e-4, teacher_lr=0.01),
    "alexnet": Network(_alexnet, 1e-4, teacher_lr=0.01),
    "vit_b_16": Network(_vit_b_16, 1e-4, teacher_lr=0.01),
    "swin_v2_t": Network(_swin_v2_t, 1e-4, teacher_lr=0.01),
}


def find(name: str) -> Network:
    """The entry of NETWORKS; ValueError listing the allowed names for an unknown one."""
    if name not in NETWORKS:
        raise ValueError(f"network = {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def create(
    name: str,
    num_classes: int,
    image_size: int,
    width: int = WIDTH,
    weights: str | None = None,
    *,
    seed: int = 0,
    layout: str = OURS,
) -> nn.Module:
    """A network of NETWORKS for (n, 3, image_size, image_size) images, giving (n, num_classes) logits.

    `weights` names torchvision weights ("IMAGENET1K_V1"): they use torchvision's layout at every image size, with a new
    last layer unless num_classes is 1000. Random weights depend on `seed` only and use `layout`. The model's `layout`
    attribute names its layout. `width` is the number of channels in conv3 … conv6. ValueError for an unknown name,
    weights or layout, or an image size that does not suit the network.
    """
    network = find(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights is not None:
            layout, model = TORCHVISION, _pretrained(name, num_classes, weights)
        else:
            with _size_errors(f"network = {name!r}", image_size):
                model = _builder(name, network, layout)(num_classes, image_size, width)
    check_takes(model, image_size, num_classes, f"network = {name!r}")
    vars(model)["layout"] = layout
    return model


def _builder(name: str, network: Network, layout: str) -> Callable[[int, int, int], nn.Module]:
    if layout == OURS:
        return network.build
    if layout != TORCHVISION or not network.pretrained:
        raise ValueError(f"layout = {layout!r}: {name} does not have it; choose {OURS}")
    return _torchvision(name)


def check_size(name: str, image_size: int, width: int = WIDTH) -> None:
    """ValueError unless the network takes images of that size. Uses torch's meta device: shapes only."""
    what, network = f"network = {name!r}", find(name)
    with torch.device("meta"), _size_errors(what, image_size):
        model = network.build(2, image_size, width)
        if not isinstance(model, ConvNet):  # it was refused when it was built; running it loads torch's compiler
            check_takes(model, image_size, 2, what)


@contextmanager
def _size_errors(what: str, image_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:  # also a RuntimeError, but not about the size
        raise
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{what}: does not accept image_size {image_size} ({error})") from error


def check_weights(name: str, weights: str) -> None:
    """ValueError unless `weights` names torchvision's weights for the network."""
    if not find(name).pretrained:
        raise ValueError(f"weights = {weights!r}: torchvision has none for {name}; use weights=None or a checkpoint")
    from torchvision.models import get_model_weights

    known = get_model_weights(name)
    if weights not in known.__members__:
        raise ValueError(f"weights = {weights!r}: choose one of {name}'s, {', '.join(known.__members__)}")


def _pretrained(name: str, num_classes: int, weights: str) -> nn.Module:
    from torchvision.models import get_model

    check_weights(name, weights)
    try:
        model = get_model(name, weights=weights)
    except OSError as error:
        raise OSError(f"weights = {weights!r}: the download for {name} failed ({error}); use a checkpoint") from error
    if num_classes != IMAGENET_CLASSES:
        replace_last_linear(model, num_classes)
    return model


@torch.no_grad()
def check_takes(model: nn.Module, image_size: int, num_classes: int, what: str) -> None:
    """Runs one black image through `model`; ValueError for another size or number of classes."""
    training = model.training
    device = next(model.parameters()).device
    with _size_errors(what, image_size):
        shape = tuple(model.eval()(torch.zeros(1, 3, image_size, image_size, device=device)).shape)
    model.train(training)
    if shape != (1, num_classes):
        raise ValueError(f"{what}: has {shape[-1]} classes, {num_classes} are needed")


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer of a classifier: its input is the embedding, its output the logits.

    Raises ValueError when the model has no linear layer.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(f"{type(model).__name__} has no linear layer, whose gradients are needed")
    return linears[-1]


def replace_last_linear(model: nn.Module, num_classes: int) -> None:
    """Replaces the last linear layer by a fresh one with `num_classes` outputs."""
    old = last_linear(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, nn.Linear(old.in_features, num_classes))
