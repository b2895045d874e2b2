"""What the editor does to hue and content, prompt by prompt: python benchmarks/editor.py --data-dir data/cifar10

Every prompt on the same test images, at the settings of notebook 04. Printed as the table of the model card: the mean
shift in CIELAB, the structural similarity of the lightness to the source, and how often the prompt whose mean shift is
nearest to the edit's own is the one that was asked for (chance: one in ten).
"""

from typing import Annotated

import numpy as np
import pandas as pd
import typer
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity
from tqdm.auto import tqdm

from dc3 import data, networks, parameters, paths
from dc3.compensation import to_uint8
from dc3.editor import load_editor

DEFAULTS = {name: parameter.default for name, parameter in parameters.declared("04_compensation").items()}
PROMPTS = [*DEFAULTS["warm_prompts"], *DEFAULTS["cold_prompts"]]


def lab_shifts(edited: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Mean (ΔL, Δa, Δb) of each image: (n, 3)."""
    return (rgb2lab(edited) - rgb2lab(sources)).mean(axis=(1, 2))


def lightness_similarity(edited: np.ndarray, sources: np.ndarray) -> float:
    """Mean SSIM of L*."""
    pairs = zip(rgb2lab(edited)[..., 0], rgb2lab(sources)[..., 0], strict=True)
    return float(np.mean([structural_similarity(one, other, data_range=100) for one, other in pairs]))


def main(
    data_dir: Annotated[str, typer.Option(help="class folders under test/; empty: scenes10")] = "",
    images: Annotated[int, typer.Option(help="test images, spread evenly over the set")] = 100,
    editor: str = DEFAULTS["editor"],
    size: int = DEFAULTS["edit_size"],
    seed: int = 0,
) -> None:
    """Print the table."""
    if data_dir:
        test = data.load("imagefolder", "test", data_dir=str(paths.resolve(data_dir)), image_size=size)
    else:
        test = data.load("scenes10", "test", image_size=size)
    sources = test.images(np.linspace(0, len(test) - 1, images).astype(int))
    tool = load_editor(
        editor,
        size=size,
        steps=DEFAULTS["edit_steps"],
        guidance_scale=DEFAULTS["guidance_scale"],
        image_guidance_scale=DEFAULTS["image_guidance_scale"],
        batch_size=DEFAULTS["edit_batch_size"],
        device=networks.device(),
    )
    shifts, rows = {}, []
    for number, prompt in enumerate(tqdm(PROMPTS, desc="prompts")):
        instruction = DEFAULTS["instruction"].format(p=prompt)
        seeds = np.random.default_rng([seed, number]).integers(2**62, size=len(sources))
        edited = to_uint8(tool.edit(sources, [instruction] * len(sources), list(seeds)))
        shifts[prompt] = lab_shifts(edited, sources)
        rows.append({"prompt": prompt, "SSIM of L*": lightness_similarity(edited, sources)})
    centres = np.stack([shift.mean(axis=0) for shift in shifts.values()])
    for number, (row, shift) in enumerate(zip(rows, shifts.values(), strict=True)):
        nearest = np.linalg.norm(shift[:, None] - centres, axis=-1).argmin(axis=1)
        row |= dict(zip(("ΔL*", "Δa*", "Δb*"), shift.mean(axis=0), strict=True))
        row |= {"spread of Δb*": shift[:, 2].std(), "named rightly": (nearest == number).mean()}
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False, floatfmt=".2f"))
    print(f"\n{images} images of {size} px; mean SSIM {table['SSIM of L*'].mean():.3f}, ", end="")
    print(f"named rightly {table['named rightly'].mean():.0%} (chance {1 / len(PROMPTS):.0%})")


if __name__ == "__main__":
    typer.run(main)
