"""Compensation against one pipeline call per image and prompt, as published: python benchmarks/compensation.py

All in one run, with the same editor and prompts. The published loop passes one image and one prompt at a time. Ours
edits whole batches, embeds each instruction once and encodes each source once for its two edits; then with the sampler
and steps of --fast-sampler and --fast-steps, then with guidance in a part of them, so that the table says what share
is due to what. On a processor, seconds are those of the process, because other work would count in wall time. The
second table splits the time of the batches among the U-Net, the VAE, the text encoder and the encoder of PNGs.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image
from stopwatch import Stopwatch

from dc3 import condensed
from dc3.compensation import Coloring, Compensator, compensate, draw_for
from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.machine import devices, paths
from dc3.models.editor import Editor, EditorSettings, load_editor
from dc3.runs import parameters

DEFAULTS = {name: parameter.default for name, parameter in parameters.declared("04_compensation").items()}


def published(images: ImageSet, picks: pd.DataFrame, folder: Path, compensator: Compensator) -> None:
    """One call per image and prompt; each embeds its text again."""
    coloring, tool, used = compensator.coloring, compensator.editor, compensator.editor.settings
    for index in picks["index"]:
        source = Image.fromarray(images.images([index], used.size)[0])
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


@contextmanager
def watch(tool: Editor) -> Iterator[Stopwatch]:
    """Times the parts of compensation within the block."""
    clock, pipeline = Stopwatch(clock_of(tool)), tool.pipeline
    # a compiled module traces its forward, and a clock in there would be compiled too
    called = "forward" if pipeline.unet._compiled_call_impl is None else "_compiled_call_impl"
    parts = {
        "U-Net": (pipeline.unet, called),
        "VAE, encoding": (pipeline.vae, "encode"),
        "VAE, decoding": (pipeline.vae, "decode"),
        "text encoder": (pipeline.text_encoder, "forward"),
        "PNG": (condensed.Storage, "encoded"),
    }
    with ExitStack() as stack:
        for name, (owner, function) in parts.items():
            stack.enter_context(patch.object(owner, function, clock.timed(name, getattr(owner, function))))
        yield clock


def clock_of(tool: Editor) -> Callable[[], float]:
    return time.perf_counter if tool.device.type == "cuda" else time.process_time


def timed(run: Callable, images: ImageSet, picks: pd.DataFrame, compensator: Compensator) -> float:
    compensator.editor.embeddings.clear()
    now = clock_of(compensator.editor)
    with tempfile.TemporaryDirectory() as folder:
        started = now()
        run(images, picks, Path(folder), compensator)
        return now() - started


def compensate_at_size(images: ImageSet, picks: pd.DataFrame, folder: Path, compensator: Compensator) -> None:
    compensate(images, picks, folder, condensed.Storage(compensator.editor.settings.size), compensator)


def chosen_picks(count: int) -> tuple[ImageSet, pd.DataFrame]:
    train = datasets.load("scenes10", "train", images_per_class=-(-count // 10))
    index = np.arange(count) * len(train) // count
    picks = pd.DataFrame({"index": index, "label": train.labels[index], "bin": 0})
    picks["rank"] = picks.groupby("label").cumcount()
    return train, picks


def main(
    images: Annotated[int, typer.Option(help="picks to compensate")] = 32,
    editor: str = DEFAULTS["editor"],
    size: int = DEFAULTS["edit_size"],
    steps: Annotated[int, typer.Option(help="Euler ancestral steps; published: 100")] = 100,
    fast_sampler: str = "dpmpp_2m",
    fast_steps: int = 10,
    until: Annotated[float, typer.Option(help="guidance_until of the last row")] = 0.4,
    batch_size: int = DEFAULTS["edit_batch_size"],
    precision: str = DEFAULTS["edit_precision"],
    out: str = "figures/benchmarks/compensation.csv",
) -> None:
    """Print both tables and write the first."""
    train, picks = chosen_picks(images)
    coloring = Coloring(0, DEFAULTS["warm_prompts"], DEFAULTS["cold_prompts"], DEFAULTS["instruction"], "gradient")
    own = {"editor": editor, "edit_size": size, "edit_steps": steps, "edit_batch_size": batch_size}
    own |= {"guidance_until": 1.0}  # as published; only the last row has the interval
    tool = load_editor(EditorSettings.of(DEFAULTS | own | {"edit_precision": precision}), devices.device())
    base = Compensator(coloring, tool)
    fast = Compensator(coloring, tool.using(sampler=fast_sampler, steps=fast_steps))
    least = Compensator(coloring, fast.editor.using(guidance_until=until))
    timed(compensate_at_size, train, picks[:2], least)
    loop = timed(published, train, picks, base)
    with watch(tool) as clock:
        batched = timed(compensate_at_size, train, picks, base)
    rows = {
        f"one call per image and prompt, {steps} steps of euler_a": loop,
        "in batches": batched,
        f"{fast_steps} steps of {fast_sampler}": timed(compensate_at_size, train, picks, fast),
        f"guidance until {until:g}": timed(compensate_at_size, train, picks, least),
    }
    print(f"{2 * images} edits at {size} px, batches of {batch_size}, {tool.precision}, {tool.device}\n")
    table = pd.DataFrame({"how": rows.keys(), "seconds": rows.values()})
    table["edits/s"] = 2 * images / table["seconds"]
    table["against the row above"] = table["seconds"].shift() / table["seconds"]
    table["ratio"] = loop / table["seconds"]
    table.to_csv(paths.resolve(out), index=False, float_format="%.4g")
    print(table.to_markdown(index=False, floatfmt=".3g"))
    clock.seconds["all else"] = batched - sum(clock.seconds.values())
    shares = pd.Series(clock.seconds, name="seconds").rename_axis("part").reset_index()
    shares["share"] = (shares["seconds"] / batched).map("{:.1%}".format)
    print("\n" + shares.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    typer.run(main)
