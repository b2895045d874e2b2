"""Compensation against one pipeline call per image and prompt, as published: python benchmarks/compensation.py

Both in one run, with the same editor, steps and prompts. Ours edits whole batches, embeds each instruction once and
encodes each source once for its two edits; the published loop passes one image and one prompt at a time. The second
table splits our time among the U-Net, the VAE, the text encoder and the PNG writer.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image

from dc3 import condensed
from dc3.compensation import Coloring, Compensator, compensate, draw_for
from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.machine import devices
from dc3.models.editor import Editor, EditorSettings, load_editor
from dc3.runs import parameters

DEFAULTS = {name: parameter.default for name, parameter in parameters.declared("04_compensation").items()}


def published(images: ImageSet, picks: pd.DataFrame, folder: Path, compensator: Compensator) -> None:
    """One call per image and prompt; each embeds its text again."""
    coloring, tool, used = compensator.coloring, compensator.editor, compensator.editor.settings
    for index in picks["index"]:
        source = Image.fromarray(images.images([index])[0]).resize((used.size, used.size), Image.Resampling.BILINEAR)
        drawn = draw_for(int(index), coloring)
        for prompt, seed in zip(drawn.prompts, drawn.edit_seeds, strict=True):
            tool.pipeline(
                coloring.instruction.format(p=prompt),
                image=source,
                num_inference_steps=used.steps,
                guidance_scale=used.guidance_scale,
                image_guidance_scale=used.image_guidance_scale,
                generator=torch.Generator().manual_seed(seed),
            )


class Stopwatch:
    """Adds up the seconds in some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watched(self, name: str, function: Callable) -> Callable:
        def call(*arguments, **named):
            started = time.perf_counter()
            result = function(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - started
            return result

        return call


def watch(tool: Editor) -> Stopwatch:
    clock, pipeline = Stopwatch(), tool.pipeline
    pipeline.unet.forward = clock.watched("U-Net", pipeline.unet.forward)
    pipeline.vae.encode = clock.watched("VAE, encoding", pipeline.vae.encode)
    pipeline.vae.decode = clock.watched("VAE, decoding", pipeline.vae.decode)
    pipeline.text_encoder.forward = clock.watched("text encoder", pipeline.text_encoder.forward)
    condensed._write = clock.watched("PNG, with fsync", condensed._write)
    return clock


def timed(run: Callable, images: ImageSet, picks: pd.DataFrame, compensator: Compensator) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run(images, picks, Path(folder), compensator)
        return time.perf_counter() - started


def main(
    images: Annotated[int, typer.Option(help="picks to compensate")] = 32,
    editor: str = DEFAULTS["editor"],
    size: int = DEFAULTS["edit_size"],
    steps: int = DEFAULTS["edit_steps"],
    batch_size: int = DEFAULTS["edit_batch_size"],
    precision: str = DEFAULTS["edit_precision"],
) -> None:
    """Print both tables."""
    train = datasets.load("scenes10", "train", images_per_class=-(-images // 10))
    index = np.arange(images) * len(train) // images
    picks = pd.DataFrame({"index": index, "label": train.labels[index], "bin": 0})
    picks["rank"] = picks.groupby("label").cumcount()
    coloring = Coloring(0, DEFAULTS["warm_prompts"], DEFAULTS["cold_prompts"], DEFAULTS["instruction"], "gradient")
    own = {"editor": editor, "edit_size": size, "edit_steps": steps, "edit_batch_size": batch_size}
    used = EditorSettings.of(DEFAULTS | own | {"edit_precision": precision})
    tool = load_editor(used, devices.device())
    compensator = Compensator(coloring, tool)
    timed(compensate, train, picks[:2], compensator)
    loop = timed(published, train, picks, compensator)
    tool.embeddings.clear()
    clock = watch(tool)
    ours = timed(compensate, train, picks, compensator)
    print(f"{images} picks, {2 * images} edits of {steps} steps at {size} px, {tool.precision}, {tool.device}\n")
    rows = [{"how": "one call per image and prompt", "seconds": loop}, {"how": "dc3", "seconds": ours}]
    table = pd.DataFrame(rows)
    table["condensed images/s"] = images / table["seconds"]
    table["ratio"] = loop / table["seconds"]
    print(table.to_markdown(index=False, floatfmt=".3g"))
    clock.seconds["all else"] = ours - sum(clock.seconds.values())
    shares = pd.Series(clock.seconds, name="seconds").rename_axis("part").reset_index()
    shares["share"] = (shares["seconds"] / ours).map("{:.1%}".format)
    print("\n" + shares.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    typer.run(main)
