"""How 07 trains its generators, samples them, and what they look like: made once from its parameters. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dc3.models.prompts import check_place

PUBLISHED_CLASSES = 1000  # of the DiT checkpoints that dit_base may name
PLACE = "{class}"  # of the class name in the prompt template


@dataclass(frozen=True)
class FinetuneRecipe:
    """How to train: the same for all sets.

    `amp`: bfloat16 autocast, None on a GPU only; a step has `accumulate` batches of `batch_size`; `drop` is the share
    of images whose class is dropped.
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
    """How images are made of a trained generator: `dc3.generators.finetuning.generate`."""

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
    """A small DiT: numbers a token, blocks, attention heads, side of a token in latent pixels."""

    width: int
    depth: int
    heads: int
    patch: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"dit_heads = {self.heads}: must divide dit_width = {self.width}; choose another")

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "DiTShape":
        """The shape in 07's parameters. ValueError when dit_heads does not divide dit_width."""
        return cls(params["dit_width"], params["dit_depth"], params["dit_heads"], params["dit_patch"])

    def check_size(self, size: int, downscaling: int) -> None:
        """ValueError unless the latents of images of `size` px, so many times smaller, are whole tokens."""
        if size % (downscaling * self.patch):
            raise ValueError(
                f"dit_patch = {self.patch}: images of {size} px have latents of {size / downscaling:g}, which must be "
                "a multiple of it; choose another, or another generate_size"
            )


@dataclass(frozen=True)
class LoRASettings:
    """The update of a text-to-image model, its rank and its layers, and the template of the prompts, with {class}."""

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
        """One prompt a class, underscores as spaces."""
        return [self.template.replace(PLACE, name.replace("_", " ")) for name in classes]


def prompt_names(class_names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What prompts call the classes: `class_names`, or where there are none the data's `classes`.

    ValueError for another number of names than of classes.
    """
    if class_names and len(class_names) != len(classes):
        raise ValueError(
            f"class_names = {list(class_names)}: {len(class_names)} names for {len(classes)} classes "
            f"({', '.join(classes[:5])} …); give one for each, in their order, or none"
        )
    return list(class_names or classes)


def dit_rows(rows: Sequence[int], classes: int) -> list[int]:
    """The number of each class among those of a DiT's checkpoint: `rows`, or where there are none the first ones.

    ValueError unless there is one for each of the `classes`, and they differ.
    """
    rows = list(rows) or list(range(classes))
    if len(rows) != classes or len(set(rows)) != classes or not 0 <= min(rows) <= max(rows) < PUBLISHED_CLASSES:
        raise ValueError(
            f"dit_rows = {rows}: expected {classes} different numbers below {PUBLISHED_CLASSES}, one for each class, "
            "or none"
        )
    return rows
