"""The generators that 07_finetuning compares, as its parameters describe them: a DiT, and a text-to-image LoRA."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dc3 import features
from dc3.generators import dit, lora
from dc3.generators.finetuning import Generator, Recipe
from dc3.generators.study import Plan, Sampling
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.runs.settings import AMP, Settings

Maker = Callable[[int], Generator]  # of a seed


def plans_of(params: Mapping[str, Any], settings: Settings, train: ImageSet, image_size: int) -> dict[str, Plan]:
    """A plan for each of params["generators"], by the names that figures show; images are made at `image_size` px.

    params: those of 07_finetuning. Nothing is loaded before a plan's `make` is called.
    """
    device = settings.device
    makers = {
        "dit": ("DiT", dit_maker(params, train, device)),
        "lora": ("LoRA", lora_maker(params, train.classes, device)),
    }
    asked = {kind: makers[kind] for kind in makers if kind in params["generators"]}
    return {name: _plan(kind, make, params, settings.seed, image_size) for kind, (name, make) in asked.items()}


def _plan(kind: str, make: Maker, params: Mapping[str, Any], seed: int, image_size: int) -> Plan:
    own = {name: params[f"{kind}_{name}"] for name in ("steps", "batch_size", "lr", "generate_steps", "guidance")}
    recipe = Recipe(
        own["steps"],
        own["batch_size"],
        own["lr"],
        seed=seed,
        accumulate=params["finetune_accumulate"],
        drop=params["class_dropout"],
        amp=AMP[params["finetune_precision"]],
    )
    sampling = Sampling(
        per_class=params["images_generated"],
        steps=own["generate_steps"],
        guidance=own["guidance"],
        batch_size=params["generate_batch_size"],
        image_size=image_size,
    )
    return Plan(make, recipe, sampling)


def dit_maker(params: Mapping[str, Any], train: ImageSet, device: torch.device) -> Maker:
    """Makes the DiT of `dit_base` with the data's classes; where that is empty a small new one over `vae`'s latents."""

    def make(seed: int) -> Generator:
        classes, checkpointing = len(train.classes), params["gradient_checkpointing"]
        if params["dit_base"]:
            options = {"rows": params["dit_rows"], "revision": params["dit_revision"], "checkpointing": checkpointing}
            return dit.load_dit(params["dit_base"], classes, device, **options)
        shape = {name: params[f"dit_{name}"] for name in ("width", "depth", "heads", "patch")}
        vae = features.load_vae(paths.model_location(params["vae"]), params["vae_revision"] or None)
        size = params["generate_size"] or train.image_size
        return dit.new_dit(vae, classes, size, device, seed=seed, checkpointing=checkpointing, **shape)

    return make


def lora_maker(params: Mapping[str, Any], classes: Sequence[str], device: torch.device) -> Maker:
    """Makes `lora_base` with a new LoRA, prompted with `class_names`, or where there are none those of the `classes`.

    On a GPU, unless `finetune_precision` is float32, what is not trained is kept in bfloat16.
    """
    half = device.type == "cuda" and AMP[params["finetune_precision"]] is not False

    def make(seed: int) -> Generator:
        return lora.load_lora_base(
            params["lora_base"],
            params["class_names"] or list(classes),
            device,
            template=params["prompt_template"],
            rank=params["lora_rank"],
            targets=params["lora_targets"],
            size=params["generate_size"],
            seed=seed,
            revision=params["lora_revision"],
            checkpointing=params["gradient_checkpointing"],
            **({"dtype": torch.bfloat16} if half else {}),
        )

    return make
