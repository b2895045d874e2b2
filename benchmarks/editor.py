"""What the editor does to hue and content: python benchmarks/editor.py --data-dir data/cifar10 --teacher PATH

Edits each test image by one warm and one cold prompt, in turn, with the guidance of notebook 04. Prints the tables of
the model card:

1. per prompt: the mean shift in CIELAB, the structural similarity (SSIM) of the lightness to the source, and how often
   the edit's own prompt has the nearest mean shift (chance: one in ten; the mean shifts come from the other half of the
   images);
2. over all: b* under warm and cold prompts, the teacher's accuracy on sources and edits, the spread over seeds,
   colourfulness and hue entropy of the sources and of their gradient blends, with 95 % bootstrap intervals. A class of
   scenes10 is one photograph, recognisable by its colours: --jittered-judge adds the accuracies of a judge trained on
   crops in random colours, which can only recognise the content;
3. per guidance scale: how far the edits move in the direction of their prompt, and SSIM.
"""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity
from torch import nn
from torchvision.transforms import v2
from tqdm.auto import tqdm

from dc3 import color
from dc3.blending import blend
from dc3.compensation import EditFailed, to_uint8
from dc3.images import datasets
from dc3.images.image_set import ImageSet, in_memory
from dc3.machine import devices, paths
from dc3.models import checkpoints
from dc3.models.editor import Editor, EditorSettings, load_editor
from dc3.models.evaluation import accuracy
from dc3.runs import parameters
from dc3.teacher import TeacherRecipe
from dc3.teacher import train as train_teacher

DEFAULTS = {name: parameter.default for name, parameter in parameters.declared("04_compensation").items()}
WARM, COLD = DEFAULTS["warm_prompts"], DEFAULTS["cold_prompts"]
PROMPTS = [*WARM, *COLD]
GUIDANCE = (1.25, 2.0, 4.0, 8.0)
SEEDS = 4
JITTERS = 3  # copies of each training image that the jittered judge sees


def edit(tool: Editor, sources: np.ndarray, prompts: list[str], seed: int) -> np.ndarray:
    instructions = [DEFAULTS["instruction"].format(p=prompt) for prompt in prompts]
    seeds = np.random.default_rng(seed).integers(2**62, size=len(sources)).tolist()
    parts = range(0, len(sources), tool.settings.batch_size)
    edits = [
        tool.edit(*(values[k : k + tool.settings.batch_size] for values in (sources, instructions, seeds)))
        for k in tqdm(parts, desc="edits")
    ]
    found = np.concatenate(edits)
    if broken := int((~np.isfinite(found).all(axis=(1, 2, 3))).sum()):
        raise EditFailed(f"{broken} of {len(found)} edits are NaN, so no measure would be of the editor")
    return to_uint8(found)


def lab_shifts(edited: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Mean (ΔL*, Δa*, Δb*) of each image: (n, 3)."""
    return color.mean_lab(edited) - color.mean_lab(sources)


def similarities(edited: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """SSIM of L* of each pair: (n,)."""
    pairs = zip(rgb2lab(edited)[..., 0], rgb2lab(sources)[..., 0], strict=True)
    return np.array([structural_similarity(one, other, data_range=100) for one, other in pairs])


def named_by_other_half(shifts: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Whether the nearest mean shift, over the other half of the images, is that of the own prompt: (n,) bool."""
    right = np.zeros(len(shifts), bool)
    turn = np.arange(len(shifts)) % (len(shifts) // 2)
    half = turn // (len(WARM) * len(COLD)) % 2  # each has every pair of prompts
    for tested in (0, 1):
        seen = half != tested
        centres = np.stack([shifts[seen & (prompts == prompt)].mean(axis=0) for prompt in PROMPTS])
        nearest = np.linalg.norm(shifts[~seen][:, None] - centres, axis=-1).argmin(axis=1)
        right[~seen] = np.array(PROMPTS)[nearest] == prompts[~seen]
    return right


def prompt_table(shifts: np.ndarray, ssim: np.ndarray, prompts: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame(shifts, columns=["ΔL*", "Δa*", "Δb*"])
    rows = rows.assign(prompt=prompts, SSIM=ssim, named=named_by_other_half(shifts, prompts))
    groups = rows.groupby("prompt")
    table = groups.mean().rename(columns={"SSIM": "SSIM of L*", "named": "named rightly"})
    table.insert(0, "edits", groups.size())
    return table.loc[PROMPTS].reset_index()


def interval(values: np.ndarray, statistic=np.mean) -> str:
    found = color.bootstrap_ci(values, statistic, seed=0)
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def summary(sources: np.ndarray, edits: np.ndarray, shifts: np.ndarray, ssim: np.ndarray) -> dict[str, str]:
    """edits: all warm ones, then all cold ones."""
    half = len(sources)
    pairs = zip(edits[:half], edits[half:], strict=True)
    blends = np.stack([blend(list(pair), "gradient", np.random.default_rng(k)) for k, pair in enumerate(pairs)])
    rows = {
        "Δb* under warm prompts": interval(shifts[:half, 2]),
        "Δb* under cold prompts": interval(shifts[half:, 2]),
        "SSIM of L*": interval(ssim),
    }
    for name, images in {"sources": sources, "blends": blends}.items():
        rows[f"colourfulness M, {name}"] = interval(color.colorfulness(images))
        rows[f"hue entropy (bits), {name}"] = interval(color.hue_histogram(images), color.hue_entropy)
    return rows


def own_direction(shifts: np.ndarray, prompts: np.ndarray, means: pd.DataFrame) -> float:
    """Mean length of the (a*, b*) shifts along the unit vector of their prompt's mean shift."""
    directions = means.set_index("prompt").loc[prompts, ["Δa*", "Δb*"]].to_numpy()
    return float((shifts[:, 1:] * directions / np.linalg.norm(directions, axis=1, keepdims=True)).sum(axis=1).mean())


def seed_spread(tool: Editor, sources: np.ndarray, prompts: np.ndarray) -> str:
    runs = [color.mean_lab(edit(tool, sources, list(prompts), seed=100 + k)) for k in range(SEEDS)]
    spread = np.std(runs, axis=0, ddof=1).mean(axis=0)
    return f"a* {spread[1]:.2f}, b* {spread[2]:.2f}"


def jittered_judge(train: ImageSet, seed: int) -> nn.Module:
    """A conv3 trained on JITTERS copies of every training image in random hue, saturation and brightness."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    jitter = v2.ColorJitter(brightness=0.2, saturation=(0.2, 1.6), hue=0.5)
    pixels = torch.from_numpy(train.images()).permute(0, 3, 1, 2)
    copies = [torch.stack([jitter(image) for image in pixels]).permute(0, 2, 3, 1).numpy() for _ in range(JITTERS)]
    torch.random.set_rng_state(generator)
    images = in_memory("jittered", "train", train.classes, np.tile(train.labels, JITTERS), np.concatenate(copies))
    return train_teacher(images, TeacherRecipe("conv3", 4, seed, width=64), device="cpu")[0]


def main(
    data_dir: Annotated[str, typer.Option(help="class folders under test/; empty: scenes10")] = "",
    images: Annotated[int, typer.Option(help="test images, spread evenly over the set")] = 1000,
    few: Annotated[int, typer.Option(help="images of these for the spread over seeds and each guidance scale")] = 100,
    editor: str = DEFAULTS["editor"],
    teacher: Annotated[str, typer.Option(help="a checkpoint of 00_teacher, for the accuracy on edits")] = "",
    jittered_judge_: Annotated[bool, typer.Option("--jittered-judge", help="train a judge on the image set")] = False,
    size: int = DEFAULTS["edit_size"],
    steps: int = 10,
    until: Annotated[float, typer.Option(help="guidance_until")] = 1.0,
    precision: str = DEFAULTS["edit_precision"],
    seed: int = 0,
) -> None:
    """Print the tables."""
    dataset, folder = ("imagefolder", str(paths.resolve(data_dir))) if data_dir else ("scenes10", None)
    test = datasets.load(dataset, "test", data_dir=folder)
    chosen = np.linspace(0, len(test) - 1, min(images, len(test))).astype(int)
    sources, labels = test.images(chosen, size), test.labels[chosen]
    batch_size = max(DEFAULTS["edit_batch_size"] * 32**2 // size**2, 1)
    own = {"editor": editor, "edit_size": size, "edit_batch_size": batch_size, "edit_precision": precision}
    own |= {"edit_steps": steps, "guidance_until": until}
    tool = load_editor(EditorSettings.of(DEFAULTS | own), devices.device())
    turn = np.arange(len(sources))
    prompts = np.array([*np.take(WARM, turn % len(WARM)), *np.take(COLD, turn // len(WARM) % len(COLD))])
    doubled = np.concatenate([sources, sources])
    edits = edit(tool, doubled, list(prompts), seed)
    shifts, ssim = lab_shifts(edits, doubled), similarities(edits, doubled)
    table = prompt_table(shifts, ssim, prompts)
    print(f"{len(sources)} images of {dataset} at {size} px, {len(edits)} edits of {steps} steps\n")
    print(table.to_markdown(index=False, floatfmt=".2f"))
    measures = {"named rightly (chance 10 %)": f"{named_by_other_half(shifts, prompts).mean():.0%}"}
    measures |= summary(sources, edits, shifts, ssim)
    judges = {"teacher": checkpoints.load(paths.resolve(teacher)).model} if teacher else {}
    if jittered_judge_:
        train = datasets.load(dataset, "train", data_dir=folder).at(size)
        judges["jittered judge"] = jittered_judge(train, seed)
    for name, judge in judges.items():
        measures[f"{name}'s accuracy, sources"] = f"{accuracy(judge, sources, labels):.1%}"
        measures[f"{name}'s accuracy, edits"] = f"{accuracy(judge, edits, np.tile(labels, 2)):.1%}"
    some = np.arange(few) * len(doubled) // few
    measures["standard deviation over seeds"] = seed_spread(tool, doubled[some], prompts[some])
    print("\n" + pd.Series(measures, name="value").rename_axis("measure").to_markdown())
    rows = []
    for scale in GUIDANCE:
        guided = edit(tool.using(guidance_scale=scale), doubled[some], list(prompts[some]), seed)
        moved = own_direction(lab_shifts(guided, doubled[some]), prompts[some], table)
        rows.append({"guidance": scale, "shift": moved, "SSIM of L*": similarities(guided, doubled[some]).mean()})
    print("\n" + pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f"))


if __name__ == "__main__":
    typer.run(main)
