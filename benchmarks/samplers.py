"""Edits with fewer U-Net passes, and whether they are as good: python benchmarks/samplers.py --data-dir data/cifar10

Compares samplers, steps and guidance intervals with the published 100 Euler ancestral steps, each with two seeds. Every
test image is edited under one prompt. Each part (a setting and a seed) is a row of `--out`, written as soon as it is
known; a second call skips the rows that are there, so that a long run may be stopped at any time. FID and KID compare
the features of the edits in the teacher with those of the reference under the other seed.
"""

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from editor import DEFAULTS, PROMPTS, WARM, edit, lab_shifts, similarities
from torch import nn

from dc3 import fidelity
from dc3.images import datasets
from dc3.machine import devices, paths
from dc3.machine.files import replacing
from dc3.models import checkpoints
from dc3.models.editor import Editor, EditorSettings, load_editor
from dc3.models.evaluation import accuracy
from dc3.models.feature_networks import classifier_network

SEEDS = (0, 1)
KEYS = ["data", "size", "images", "sampler", "steps", "until", "seed"]
BETTER = {"named": 1, "ssim": 1, "accuracy": 1, "shift": 1, "fid": -1, "kid": -1}  # measure → higher or lower


class Setting(NamedTuple):
    sampler: str
    steps: int
    until: float = 1.0


REFERENCE = Setting("euler_a", 100)
OWN = Setting(DEFAULTS["sampler"], DEFAULTS["edit_steps"], DEFAULTS["guidance_until"])  # the notebooks'
FAST, MORE = (("dpmpp_2m", 10), ("unipc", 10), ("euler_a", 20)), (("euler_a", 10), ("dpmpp_2m", 20), ("unipc", 20))
SETTINGS = [Setting(*pair, until) for pair in FAST for until in (1.0, 0.4)] + [OWN]
SETTINGS += [Setting(*pair, until) for pair in MORE for until in (1.0, 0.4)]


def named_by_all_others(shifts: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Whether the mean shift of the own prompt, over all other images, is the nearest: (n,) bool; chance 10 %."""
    own = prompts[:, None] == np.array(PROMPTS)
    others = own.T[None] & ~np.eye(len(prompts), dtype=bool)[:, None]  # (n, prompts, n)
    centres = others.astype(float) @ shifts / others.sum(axis=2, keepdims=True)
    return np.linalg.norm(centres - shifts[:, None], axis=2).argmin(axis=1) == own.argmax(axis=1)


class Task(NamedTuple):
    """Images with their labels and prompts, and what edits and judges them."""

    data: str
    sources: np.ndarray
    labels: np.ndarray
    prompts: np.ndarray
    tool: Editor
    judge: nn.Module | None
    cache: Path

    def edits(self, setting: Setting, seed: int) -> tuple[np.ndarray, float]:
        """The edits, computed once, and the seconds that they took."""
        name = f"{self.data}-{self.sources.shape[1]}-{len(self.sources)}-{'-'.join(map(str, setting))}-{seed}.npz"
        if not (self.cache / name).exists():
            tool = self.tool.using(sampler=setting.sampler, steps=setting.steps, guidance_until=setting.until)
            started = time.process_time()
            edited = edit(tool, self.sources, list(self.prompts), seed)
            seconds = time.process_time() - started
            self.cache.mkdir(parents=True, exist_ok=True)
            with replacing(self.cache / name) as partial, partial.open("wb") as file:
                np.savez(file, edits=edited, seconds=seconds)
        kept = np.load(self.cache / name)
        return kept["edits"], float(kept["seconds"])

    def features(self, edits: np.ndarray) -> np.ndarray:
        return fidelity.embed(edits, classifier_network(self.judge, "teacher")).features

    def row(self, setting: Setting, seed: int) -> dict:
        edits, seconds = self.edits(setting, seed)
        other = self.edits(REFERENCE, 1 - seed)[0]
        shifts, warm = lab_shifts(edits, self.sources), np.isin(self.prompts, WARM)
        used = self.tool.using(steps=setting.steps, guidance_until=setting.until).settings
        found = dict(zip(KEYS, (self.data, edits.shape[1], len(edits), *setting, seed), strict=True))
        found |= {"passes": used.guided_steps.passes(setting.steps), "cpu_seconds": seconds}
        found |= {"named": named_by_all_others(shifts, self.prompts).mean()}
        found |= {"ssim": similarities(edits, self.sources).mean()}
        found |= {"shift": (shifts[warm, 2].mean() - shifts[~warm, 2].mean()) / 2}
        if self.judge is None:
            return found
        features = self.features(edits), self.features(other)
        found["accuracy"] = accuracy(self.judge, edits, self.labels)
        return found | {"fid": fidelity.fid(*features), "kid": fidelity.kid(*features, seed=0, subset_size=100).mean}


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean of both seeds of each setting; `equal`: no measure is worse than the reference's by more than deviates.

    The deviation of a measure is the difference between the reference's two seeds; of FID and KID, which compare two
    sets, that between the setting's two.
    """
    groups = rows.groupby(["data", "size", "images", "sampler", "steps", "until"], sort=False)
    means, spread = groups.mean(numeric_only=True), groups.agg(lambda values: np.ptp(values))
    means = means[groups.size() == len(SEEDS)].drop(columns="seed")
    for at in means.index:
        reference = (*at[:3], *REFERENCE)
        if reference not in means.index:
            continue
        worse = []
        for name, sign in BETTER.items():
            if name in means and np.isfinite(means.loc[at, name]):
                deviation = spread.loc[at if sign < 0 else reference, name]
                worse += [name] * bool(sign * (means.loc[reference, name] - means.loc[at, name]) > deviation)
        means.loc[[at], "worse in"] = ", ".join(worse) or "–"
        means.loc[[at], "ratio"] = means.loc[reference, "cpu_seconds"] / means.loc[at, "cpu_seconds"]
    return means.reset_index()


def main(
    data_dir: Annotated[str, typer.Option(help="class folders under test/ or val/")] = "data/cifar10",
    images: Annotated[int, typer.Option(help="test images, spread evenly; multiples of 10, at least 20")] = 1000,
    teacher: Annotated[str, typer.Option(help="judges the edits; empty: none")] = "teachers/cifar10_conv3.safetensors",
    size: int = DEFAULTS["edit_size"],
    batch_size: Annotated[int, typer.Option(help="edits; divides the images, as the last batch is padded")] = 20,
    few: Annotated[int, typer.Option(help="compare the first settings only; 0: all")] = 0,
    editor: str = DEFAULTS["editor"],
    out: str = "figures/benchmarks/samplers.csv",
    cache: Annotated[str, typer.Option(help="where edits are kept, to go on after a stop")] = "runs/samplers.benchmark",
) -> None:
    """Add the missing rows and print the table."""
    folder = paths.resolve(data_dir)
    test = datasets.load("imagefolder", "test", data_dir=str(folder))
    chosen = np.linspace(0, len(test) - 1, min(images, len(test))).astype(int)
    prompts = np.resize(PROMPTS, len(chosen))
    own = {"editor": editor, "edit_size": size, "edit_batch_size": batch_size}
    tool = load_editor(EditorSettings.of(DEFAULTS | own), devices.device())
    judge = checkpoints.load(paths.resolve(teacher)).model.eval() if teacher else None
    task = Task(folder.name, test.images(chosen, size), test.labels[chosen], prompts, tool, judge, paths.resolve(cache))
    file = paths.resolve(out)
    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=KEYS)
    known = set(rows[KEYS].itertuples(index=False, name=None))
    for setting in [REFERENCE, *(SETTINGS[:few] if few else SETTINGS)]:
        for seed in SEEDS:
            if (task.data, size, len(chosen), *setting, seed) not in known:
                new = pd.DataFrame([task.row(setting, seed)])
                rows = new if rows.empty else pd.concat([rows, new], ignore_index=True)
                with replacing(file) as partial:
                    rows.to_csv(partial, index=False, float_format="%.5g")
    print(verdicts(rows).to_markdown(index=False, floatfmt=".4g"))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    typer.run(main)
