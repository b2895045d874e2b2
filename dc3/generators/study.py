"""A generator fine-tuned on several image sets, the images it generates, and their distance from real ones."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dc3 import features, fidelity
from dc3.generators import dit, lora
from dc3.generators.finetuning import Generator, encode, generate, train
from dc3.generators.recipes import DiTShape, FinetuneRecipe, LoRASettings, Sampling, prompt_names
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.machine.devices import has_bfloat16
from dc3.machine.files import remove
from dc3.machine.keeping import kept, kept_folder
from dc3.models import evaluation
from dc3.models.checkpoints import Teacher
from dc3.models.feature_networks import FeatureNetwork

NAMES = {"dit": dit.DiT.name, "lora": lora.LoRA.name}
REAL = "real images"  # training images under the same scores: a bound for any generator
IMAGES = "images.npy"
Maker = Callable[[int], Generator]  # from a seed


@dataclass(frozen=True)
class Plan:
    """One generator of a study: `make(seed)` builds it untrained, the same for the same seed."""

    make: Maker
    recipe: FinetuneRecipe
    sampling: Sampling


def plans_of(
    params: Mapping[str, Any],
    classes: Sequence[str],
    image_size: int,
    *,
    seed: int,
    device: torch.device,
    amp: bool | None = None,
) -> dict[str, Plan]:
    """A plan for each of params["generators"], by the name in figures; images are kept at `image_size` px.

    params: 07_finetuning's; `amp` follows its finetune_precision. Only a plan's `make` loads anything.
    """
    dit_of_data = dit_maker(params, len(classes), image_size, device)
    makers = {"dit": dit_of_data, "lora": lora_maker(params, classes, device, amp)}
    return {
        NAMES[kind]: Plan(make, FinetuneRecipe.of(kind, params, seed, amp), Sampling.of(kind, params, image_size))
        for kind, make in makers.items()
        if kind in params["generators"]
    }


def models_of(params: Mapping[str, Any]) -> list[str]:
    """The models that 07 loads, as its parameters name them."""
    models = {"dit": params["dit_base"] or params["vae"], "lora": params["lora_base"]}
    return [models[kind] for kind in models if kind in params["generators"]]


def dit_maker(params: Mapping[str, Any], classes: int, image_size: int, device: torch.device) -> Maker:
    """Makes the DiT of `dit_base` with the data's classes, or a small new one over `vae`'s latents when it is empty.

    The new one is for `generate_size`, or `image_size` px.
    """
    checkpointing = params["gradient_checkpointing"]

    def load(seed: int) -> Generator:
        rows, revision = params["dit_rows"], params["dit_revision"]
        return dit.load_dit(
            params["dit_base"], classes, device, rows=rows, revision=revision, checkpointing=checkpointing
        )

    def new(seed: int) -> Generator:
        vae = features.load_vae(paths.model_location(params["vae"]), params["vae_revision"] or None)
        size = params["generate_size"] or image_size
        return dit.new_dit(vae, classes, size, DiTShape.of(params), device, seed=seed, checkpointing=checkpointing)

    return load if params["dit_base"] else new


def lora_maker(params: Mapping[str, Any], classes: Sequence[str], device: torch.device, amp: bool | None) -> Maker:
    """Makes `lora_base` with a new LoRA, prompted with `class_names`, or `classes` when it is empty.

    On a GPU that computes bfloat16, unless `amp` is False, frozen weights are in bfloat16.
    """
    half = device.type == "cuda" and amp is not False and has_bfloat16(device)
    dtype = torch.bfloat16 if half else torch.float32

    def make(seed: int) -> Generator:
        return lora.load_lora_base(
            params["lora_base"],
            prompt_names(params["class_names"], classes),
            LoRASettings.of(params),
            device,
            size=params["generate_size"],
            seed=seed,
            revision=params["lora_revision"],
            dtype=dtype,
            checkpointing=params["gradient_checkpointing"],
        )

    return make


SHOWN = 3  # test images per class beside generated ones


class Outcome(NamedTuple):
    """A generator trained on a set with a seed: its losses per step, images uint8 (n, S, S, 3), labels (n,)."""

    generator: str
    set: str
    seed: int
    losses: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def compare(
    plans: Mapping[str, Plan], sets: Mapping[str, ImageSet], seeds: Sequence[int], folder: Path
) -> Iterator[Outcome]:
    """Trains every generator on every set with every seed for equal steps; yields what it generates.

    folder/<generator>-<set>-<seed>/ holds the weights as diffusers loads them and the images; finished ones are kept.
    Latents lie in folder/latents until the last one is done. Raises like `encode` and `train`.
    """
    for name, plan in plans.items():
        for set_name, images in sets.items():
            for seed in seeds:
                recipe = replace(plan.recipe, seed=plan.recipe.seed + seed)
                own = folder / f"{name}-{re.sub(r'[^0-9a-z]+', '_', set_name.lower())}-{seed}"
                yield Outcome(name, set_name, seed, *_outcome(plan, recipe, images, own, folder / "latents"))
    remove(folder / "latents")


def _outcome(
    plan: Plan, recipe: FinetuneRecipe, images: ImageSet, folder: Path, latents: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = plan.make(recipe.seed)
    losses = train(generator, encode(generator, images, recipe, latents), recipe, folder)
    file = folder / "generated" / IMAGES
    kept_folder(file.parent, asdict(plan.sampling))

    def write(path: Path) -> None:
        np.save(path, generate(generator, plan.sampling, recipe.seed, recipe.amp)[0])

    made = kept(file, write, partial(np.load, mmap_mode="r"))
    return losses, made, np.repeat(np.arange(generator.classes), plan.sampling.per_class)


def samples(outcomes: Sequence[Outcome], generator: str, test: ImageSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels to look at, by training set: test images first, then those of a generator's first seed."""
    some = test.first_per_class(SHOWN)
    shown = {"test images": (some.images(), some.labels)}
    for outcome in outcomes:
        if outcome.generator == generator:
            shown.setdefault(outcome.set, (outcome.images, outcome.labels))
    return shown


def real_outcome(train_set: ImageSet, per_class: int, seed: int) -> Outcome:
    """Images of a set with a frame instead of generated ones, at most `per_class` of each class, drawn at random."""
    rng = np.random.default_rng(seed)
    rows = [train_set.class_indices(c) for c in range(len(train_set.classes))]
    picked = np.concatenate([rng.permutation(row)[:per_class] for row in rows])
    return Outcome(REAL, "full set", seed, np.empty(0), train_set.images(picked), train_set.labels[picked])


def scores(
    outcomes: Sequence[Outcome],
    test: ImageSet,
    network: FeatureNetwork,
    teacher: Teacher,
    seed: int,
    amp: bool | None = None,
) -> pd.DataFrame:
    """One row per outcome: generator, set, seed, images, and its scores against the `test` images.

    FID, KID and IS are named after `network`; "taken for its class" is the share of images that the teacher classifies
    as intended, with the autocast of `amp`.
    """
    real = fidelity.embed(test, network)
    taken = [evaluation.accuracy(teacher.model, outcome.images, outcome.labels, amp=amp) for outcome in outcomes]
    table = pd.DataFrame([_scores(outcome, real, network, seed) for outcome in outcomes])
    return table.assign(**{"taken for its class": taken})


def _scores(outcome: Outcome, real: fidelity.Embedded, network: FeatureNetwork, seed: int) -> dict:
    images = np.asarray(outcome.images)
    scores = fidelity.scores(real, fidelity.embed(images, network), network, seed=seed)
    row = {"generator": outcome.generator, "set": outcome.set, "seed": outcome.seed, "images": len(images)}
    return row | {network.label(name): scores[network.label(name)] for name in ("FID", "KID", "IS")}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """`scores` over the seeds: generator, set, seeds, images, and the scores' mean and (of several seeds) std."""
    values = [column for column in table if column not in ("generator", "set", "seed", "images")]
    grouped = table.groupby(["generator", "set"], sort=False)
    found = grouped.agg(seeds=("seed", "count"), images=("images", "first"))
    for column in values:
        found[column] = grouped[column].mean()
        if (found["seeds"] > 1).any():
            found[f"{column} std"] = grouped[column].std()
    return found.reset_index()


def loss_history(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The loss of every step: columns generator, set, seed, step (1 …), loss."""
    parts = [
        pd.DataFrame({"step": 1 + np.arange(len(outcome.losses)), "loss": outcome.losses}).assign(
            generator=outcome.generator, set=outcome.set, seed=outcome.seed
        )
        for outcome in outcomes
        if len(outcome.losses)
    ]
    return pd.concat(parts, ignore_index=True)[["generator", "set", "seed", "step", "loss"]]


def final_losses(history: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of the first and last quarter of the steps: columns generator, set, first, last, change."""
    last_step = history.groupby("generator")["step"].transform("max")
    edge = (last_step / 4).clip(lower=1)
    keys = ["generator", "set"]
    first = history[history["step"] <= edge].groupby(keys, sort=False)["loss"].mean()
    last = history[history["step"] > last_step - edge].groupby(keys, sort=False)["loss"].mean()
    return pd.DataFrame({"first": first, "last": last, "change": last - first}).reset_index()
