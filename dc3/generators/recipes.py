"""Configurations of 07's generators: training, sampling and shape, made once from its parameters. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dc3.models.prompts import check_place

PUBLISHED_CLASSES = 1000  # in the DiT checkpoints that dit_base may name
PARTS_OF_POSITION = 4  # of a token's embedding: sine and cosine, for each of two axes
PLACE = "{class}"  # for the class name in the prompt template


@dataclass(frozen=True)
class FinetuneRecipe:
    """How to train, equal for all sets.

    `amp`: bfloat16 autocast, None on a GPU only; a step has `accumulate` batches of `batch_size`; `drop` is the share
    of images without a class.
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    accumulate: int = 1
    drop: float = 0.1
    amp: bool | None = None
    save_every: int = 250

    @classmethod
    def of(cls, kind: str, params: Mapping[str, Any], seed: int, amp: bool | None) -> "FinetuneRecipe":
        """The recipe of "dit" or "lora" in 07's parameters."""
        return cls(
            steps=params[f"{kind}_steps"],
            batch_size=params[f"{kind}_batch_size"],
            learning_rate=params[f"{kind}_lr"],
            seed=seed,
            accumulate=params["finetune_accumulate"],
            drop=params["class_dropout"],
            amp=amp,
        )


@dataclass(frozen=True)
class Sampling:
    """How a trained generator makes images, for `finetuning.generate`."""

    per_class: int
    steps: int
    guidance: float
    batch_size: int
    image_size: int

    @classmethod
    def of(cls, kind: str, params: Mapping[str, Any], image_size: int) -> "Sampling":
        """The sampling of "dit" or "lora" in 07's parameters; images are kept at `image_size` px."""
        return cls(
            per_class=params["images_generated"],
            steps=params[f"{kind}_generate_steps"],
            guidance=params[f"{kind}_guidance"],
            batch_size=params["generate_batch_size"],
            image_size=image_size,
        )


@dataclass(frozen=True)
class DiTShape:
    """A small DiT: numbers per token, blocks, attention heads, side of a token in latent pixels."""

    width: int
    depth: int
    heads: int
    patch: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"dit_heads = {self.heads}: choose a divisor of dit_width = {self.width}")
        if self.width % PARTS_OF_POSITION:
            raise ValueError(f"dit_width = {self.width}: a multiple of {PARTS_OF_POSITION}")

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "DiTShape":
        """The shape in 07's parameters. ValueError when dit_heads or 4 do not divide dit_width."""
        return cls(params["dit_width"], params["dit_depth"], params["dit_heads"], params["dit_patch"])

    def check_size(self, size: int, downscaling: int) -> None:
        """ValueError unless tokens tile the latents of images of `size` px, `downscaling` times smaller."""
        if size % (downscaling * self.patch):
            raise ValueError(
                f"dit_patch = {self.patch}: must divide the latents' side, {size / downscaling:g} for images of {size} "
                "px; choose another dit_patch or generate_size"
            )


@dataclass(frozen=True)
class LoRASettings:
    """A LoRA's rank and target layers, and the prompt template with {class}."""

    template: str
    rank: int
    targets: Sequence[str]

    def __post_init__(self) -> None:
        check_place("prompt_template", self.template, PLACE)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "LoRASettings":
        """The settings in 07's parameters. ValueError when prompt_template has no {class}."""
        return cls(params["prompt_template"], params["lora_rank"], params["lora_targets"])

    def prompts(self, classes: Sequence[str]) -> list[str]:
        """One prompt per class, underscores as spaces."""
        return [self.template.replace(PLACE, name.replace("_", " ")) for name in classes]


def prompt_names(class_names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names of the classes in prompts: `class_names`, or the data's `classes` when it is empty.

    ValueError unless there is one name per class.
    """
    if class_names and len(class_names) != len(classes):
        raise ValueError(
            f"class_names = {list(class_names)}: {len(class_names)} names for {len(classes)} classes "
            f"({', '.join(classes[:5])} …); give one per class, in their order, or none"
        )
    return list(class_names or classes)


def dit_rows(rows: Sequence[int], classes: int) -> list[int]:
    """Each class's number in a DiT's checkpoint: `rows`, or the first ones when it is empty.

    ValueError unless there are `classes` different numbers.
    """
    rows = list(rows) or list(range(classes))
    if len(rows) != classes or len(set(rows)) != classes or not 0 <= min(rows) <= max(rows) < PUBLISHED_CLASSES:
        raise ValueError(
            f"dit_rows = {rows}: expected {classes} different numbers below {PUBLISHED_CLASSES}, one per class, or none"
        )
    return rows
