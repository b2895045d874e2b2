"""What 00_teacher settles for the whole run and later stages read: seed, device, precision, image set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.machine import devices, paths
from dc3.runs.stage import Stage, read_json, write_json

FILE = "settings.json"
SPLITS = ("train", "test")
AMP = {"auto": None, "float32": False, "bfloat16": True}  # precision → the `amp` of training and testing


@dataclass(frozen=True)
class Settings:
    """The run's seed, device, precision and image set; `load` holds the arguments of `data.load`."""

    seed: int
    device: torch.device
    precision: str
    load: dict[str, Any]
    classes: list[str]
    fingerprints: dict[str, str]

    @property
    def amp(self) -> bool | None:
        """bfloat16 autocast: yes, no, or (None) on a GPU only."""
        return AMP[self.precision]

    @property
    def amp_of_features(self) -> bool | None:
        """The `amp` of latents and gradients: half precision on a GPU unless `precision` is float32, nowhere else."""
        return False if self.amp is False else None

    def image_set(self, split: str) -> ImageSet:
        """The run's "train" or "test" images. ValueError when they are not the ones the run began with."""
        images = load_split(split, self.load)
        if list(images.classes) != self.classes:
            changed = [f"{name} is gone" for name in sorted(set(self.classes) - set(images.classes))]
            changed += [f"{name} is new" for name in sorted(set(images.classes) - set(self.classes))]
            raise ValueError(
                f"the {split} images have other class folders than when 00_teacher ran ({', '.join(changed[:5])}): "
                "put back what is missing, or run 00_teacher again"
            )
        if images.fingerprint() != self.fingerprints[split]:
            raise ValueError(f"the {split} images of {self.load} have changed since 00_teacher ran: run it again")
        return images.cached()


def settle(stage: Stage, seed: int, device: str, precision: str, **load: Any) -> Settings:
    """Opens both splits once, so that a bad data_dir is refused here, and writes what the other stages read."""
    if load["data_dir"]:
        load["data_dir"] = str(stage.use(load["data_dir"]))
    opened = {split: load_split(split, load) for split in SPLITS}
    content = {
        "seed": seed,
        "device": device,
        "precision": precision,
        "load": load,
        "classes": list(opened["train"].classes),
        "fingerprints": {split: images.fingerprint() for split, images in opened.items()},
    }
    write_json(stage.output(FILE), content)
    return _settings(stage.output(FILE))


def load_split(split: str, load: dict[str, Any]) -> ImageSet:
    """One split of the image set; `images_per_class` thins out the training images only."""
    return datasets.load(split=split, **load | ({} if split == "train" else {"images_per_class": 0}))


def settings(stage: Stage) -> Settings:
    """What 00_teacher settled for this stage's run."""
    return _settings(stage.input(f"00_teacher/{FILE}"))


def of_run(run: str) -> Settings:
    """What 00_teacher settled for a run, read from outside its stages."""
    return _settings(paths.RUNS / run / "00_teacher" / FILE)


def _settings(path: Path) -> Settings:
    content = read_json(path)
    return Settings(**content | {"device": devices.device(content["device"])})
