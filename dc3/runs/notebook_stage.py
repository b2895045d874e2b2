"""A notebook's stage: the run's settings, images, teacher and sets, and its figures and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dc3.machine import paths
from dc3.machine.files import replacing
from dc3.runs import stage
from dc3.runs.manifests import (
    COMPENSATION,
    TEACHER,
    TEACHER_FILE,
    StageMissing,
    read_manifest,
    read_settings,
    write_json,
    written,
    written_folder,
)
from dc3.runs.stage import Stage, noun

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from dc3.compensation import Compensator
    from dc3.condensed import Storage
    from dc3.fidelity import Embedded
    from dc3.images.image_set import ImageSet
    from dc3.machine.engine import Engine
    from dc3.models.checkpoints import Teacher
    from dc3.models.feature_networks import FeatureNetwork

C = TypeVar("C", "pd.DataFrame", "np.ndarray")
SETTINGS = "settings.json"  # of 00_teacher
SPLITS = ("train", "test")
OWN_SET = f"{COMPENSATION}/condensed"
EQUAL_BYTES = "random, equal bytes"  # the set of `of_equal_bytes`
LOAD = (  # parameters of 00 that choose the images and say how to read them
    *("dataset", "data_dir", "images_per_class"),
    *("framing", "resampling", "exif_orientation"),
)
AMP = {"auto": None, "float32": False, "bfloat16": True}  # precision → the `amp` of training and testing


@dataclass(frozen=True)
class Settings:
    """The run's seed, device, precision and image set.

    `image_size`: pixels a side that networks see; `load`: the arguments of `datasets.load`.
    """

    seed: int
    device: torch.device
    precision: str
    image_size: int
    load: dict[str, Any]
    classes: list[str]
    fingerprints: dict[str, str]

    @classmethod
    def of_run(cls, run: str) -> Settings:
        """The settings of a run, read from outside its stages."""
        return cls.of_file(written(run, f"{TEACHER}/{SETTINGS}"))

    @classmethod
    def of_file(cls, path: Path) -> Settings:
        """Reads settings.json; the device is chosen by its name on this machine."""
        from dc3.machine import devices

        try:
            content = read_settings(path) or {}
            return cls(**content | {"device": devices.device(content["device"])})
        except (TypeError, KeyError):  # nothing, or the settings of another version
            raise StageMissing(
                f"{paths.shown(path)} is missing, damaged or of another version: run notebooks/00_teacher.ipynb again"
            ) from None

    @property
    def amp(self) -> bool | None:
        """bfloat16 autocast: yes, no, or (None) on a GPU only."""
        return AMP[self.precision]

    @property
    def amp_of_features(self) -> bool | None:
        """The `amp` of latents and gradients: half precision on a GPU unless `precision` is float32, nowhere else."""
        return False if self.amp is False else None

    def image_set(self, split: str) -> ImageSet:
        """The run's "train" or "test" images, of any size. ValueError when they have changed since the run began."""
        images = load_split(split, self.load)
        if list(images.classes) != self.classes:
            changed = [f"{name} is gone" for name in sorted(set(self.classes) - set(images.classes))]
            changed += [f"{name} is new" for name in sorted(set(images.classes) - set(self.classes))]
            raise ValueError(
                f"the class folders of {split} have changed since 00_teacher ran ({', '.join(changed[:5])}): "
                "restore them, or run 00_teacher again"
            )
        if images.fingerprint() != self.fingerprints[split]:
            raise ValueError(f"the {split} images of {self.load} have changed since 00_teacher ran: run it again")
        return images


def load_split(split: str, load: dict[str, Any]) -> ImageSet:
    """One split of the image set; `images_per_class` applies to the training images only."""
    from dc3.images import datasets

    return datasets.load(split=split, **load | ({} if split == "train" else {"images_per_class": 0}))


class NotebookStage(Stage):
    """A stage with its notebook's data; each part is loaded on first use and recorded as an input."""

    @cached_property
    def settings(self) -> Settings:
        """The run's settings, which 00_teacher writes."""
        return Settings.of_file(self.input(f"{TEACHER}/{SETTINGS}"))

    def settle(self) -> None:
        """Writes `settings` from the parameters of 00, for all stages; opens both splits, so that errors show here."""
        load = {name: self.params[name] for name in LOAD}
        if load["data_dir"]:
            load["data_dir"] = str(self.use(load["data_dir"]))
        opened = {split: load_split(split, load) for split in SPLITS}
        content = {name: self.params[name] for name in ("seed", "device", "precision", "image_size")} | {
            "load": load,
            "classes": list(opened["train"].classes),
            "fingerprints": {split: images.fingerprint() for split, images in opened.items()},
        }
        write_json(self.output(SETTINGS), content)
        self.settings = Settings.of_file(self.output(SETTINGS))

    @cached_property
    def train(self) -> ImageSet:
        """The training images, of any size: each reader asks for the size it needs."""
        return self.settings.image_set("train")

    @cached_property
    def seen(self) -> ImageSet:
        """The training images as networks see images that they are tested on, at image_size."""
        return self.train.as_tested(self.settings.image_size).cached()

    @cached_property
    def test(self) -> ImageSet:
        """The test images as networks see them, at image_size."""
        return self.settings.image_set("test").as_tested(self.settings.image_size).cached()

    def chosen_teacher(self) -> str:
        """Where 00's teacher comes from: "train", or a file or the name of weights, on which the stage then depends."""
        from dc3.teacher import chosen

        source = chosen(self.params)
        if source != "train":
            self.use_model(source)
        return source

    @cached_property
    def teacher(self) -> Teacher:
        """The run's teacher, on the run's device, in eval mode."""
        from dc3.models import checkpoints

        return checkpoints.load(self.input(TEACHER_FILE), self.settings.device)

    @cached_property
    def engine(self) -> Engine:
        """The engine of the stage's parameters; `finish` stops it."""
        from dc3.machine.engine import engine_of

        return engine_of(self.params, self.settings.device)

    def read(self, name: str) -> pd.DataFrame | np.ndarray:
        """An earlier stage's table (.parquet), or its array (.npy) as a memory map."""
        import numpy as np
        import pandas as pd

        path = self.input(name)
        return np.load(path, mmap_mode="r") if path.suffix == ".npy" else pd.read_parquet(path)

    def write(self, content: C, name: str) -> C:
        """Writes a table (.parquet) or an array (.npy) into the stage, complete or not at all, and returns it."""
        import numpy as np

        with replacing(self.output(name)) as partial:
            if isinstance(content, np.ndarray):
                np.save(partial, content)
            else:
                content.to_parquet(partial, index=False)
        return content

    def show(self, figure: Figure, name: str) -> None:
        """Saves a figure as figures/<run>/<stage>_<name>.png and .pdf; the notebook shows it below its cell."""
        from dc3 import figures

        figures.save(figure, self.figures / f"{noun(self.name)}_{name}.png")

    def show_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Saves a table as figures/<run>/<stage>_<name>.csv and .md, and returns it."""
        from dc3 import figures

        figures.save_table(table, self.figures / f"{noun(self.name)}_{name}")
        return table

    def picks(self, method: str) -> pd.DataFrame:
        """A method's picks from 03_sampling: columns index, label, bin, rank, gain; for "rded" also its crops."""
        from dc3.strategies import METHODS

        return self.read(f"03_sampling/{METHODS[method].picks_file}")

    @cached_property
    def compensator(self) -> Compensator | None:
        """The compensator of 04's parameters, on the run's device; None if their `method` does not edit."""
        from dc3.compensation import Compensator
        from dc3.strategies import METHODS

        if METHODS[self.params["method"]].edits:
            self.use_model(self.params["editor"])
        return Compensator.of(self.params, self.settings.seed, self.settings.device)

    def condense(self, picks: pd.DataFrame, storage: Storage) -> pd.DataFrame:
        """Writes the condensed set of `picks`, compensated as the parameters say; returns its provenance."""
        from dc3 import gaps
        from dc3.compensation import condense

        folder, compensator = self.output("condensed"), self.compensator
        if compensator is None or self.params["coloring"] != gaps.GAP:
            return condense(self.train, picks, folder, storage, compensator, self.engine)
        filling = gaps.Filling(self.teacher.model, self.settings.image_size, self.params["gap_margin"])
        chosen = gaps.choices(self.train, picks, compensator, filling, self.class_colors, self.output("gaps"))
        self.write(chosen, gaps.CHOICES)
        return gaps.fill_gaps(self.train, picks, folder, storage, compensator, chosen, self.engine)

    @cached_property
    def class_colors(self) -> list[np.ndarray]:
        """The colours of the training images of each class, (n, d); cached for all runs."""
        from dc3 import gaps

        return gaps.class_colors(self.train, paths.FEATURES)

    def own_set(self) -> dict[str, ImageSet]:
        """The condensed set that the stage studies, by name: `condensed_dir`, or the run's own by `method`."""
        from dc3.condensed import set_name
        from dc3.strategies import METHODS

        elsewhere = self.params["condensed_dir"]
        name = f"condensed_dir {set_name(elsewhere)}" if elsewhere else METHODS[self.params["method"]].name
        return {name: self._own_images}

    def own_sources(self) -> dict[str, ImageSet]:
        """The training image of each image of `own_set`, by the set's name; {} for crops and sets from elsewhere."""
        made = self._provenance
        if made is None or "tiles" in made:
            return {}
        return {name: self.train.take(made["index"].to_numpy()) for name in self.own_set()}

    @cached_property
    def _own_images(self) -> ImageSet:
        from dc3 import condensed

        if self._provenance is None:
            return condensed.load(self.use(self.params["condensed_dir"]), self.train.classes)
        return condensed.load(written_folder(self.run, OWN_SET), self.train.classes)

    @cached_property
    def _provenance(self) -> pd.DataFrame | None:
        """The table of the run's own condensed set; None where the stage studies a set from elsewhere."""
        from dc3.condensed import PROVENANCE

        return None if self.params["condensed_dir"] else self.read(f"{OWN_SET}/{PROVENANCE}")

    @cached_property
    def storage(self) -> Storage:
        """How sets beside the stage's own are kept: as that one."""
        from dc3 import condensed

        return condensed.storage_of(self._own_images, self._provenance, self.settings.image_size)

    def sets_beside(self, methods: list[str]) -> dict[str, ImageSet]:
        """The sets of methods without edits, made from their picks in memory, by the methods' names.

        They are read from the originals and kept as the stage's own set is: at its stored size, in its format.
        """
        from dc3.strategies import METHODS, plain_images

        found = {}
        for method in methods:
            images, labels = plain_images(self.train, self.picks(method), self.storage.size)
            found[METHODS[method].name] = self.storage.in_memory(method, self.train.classes, images, labels)
        return found

    def redrawn(self, sets: dict[str, ImageSet], seeds: list[int]) -> dict[str, list[ImageSet]]:
        """Another draw of random images and of RDED's crops for every student but the first: name → one set per seed.

        So the deviation over students holds the draws of picks too. Sets that are not among `sets` are left out, and
        those of other methods are one draw of picks.
        """
        from dc3.strategies import METHODS

        drawn_by = {METHODS[method].name: (method, self.storage) for method in ("random", "rded")}
        drawn_by[EQUAL_BYTES] = ("random", self._small_storage)
        found = {}
        for name, (method, storage) in drawn_by.items():
            if (first := sets.get(name)) is not None:
                ipc = len(first) // len(first.classes)
                others = [self._drawn(method, storage, ipc, draw) for draw in range(1, len(seeds))]
                found[name] = [first, *others]
        return found

    @property
    def _small_storage(self) -> Storage:
        return replace(self.storage, size=self.settings.image_size)

    def _drawn(self, method: str, storage: Storage, ipc: int, draw: int = 0) -> ImageSet:
        """Random images, or RDED's crops with the options of 03_sampling, kept by `storage`; draw 0 is that of 03."""
        from dc3.models.augmentation import mix_seed
        from dc3.rded import Crops
        from dc3.strategies import RDED, PickOptions, Pool, pick, plain_images

        seed, pool = self.settings.seed, Pool(self.train.labels)
        options = PickOptions(ipc, mix_seed(seed, "draw", draw) if draw else seed)
        if method == RDED:
            sampling = read_manifest(self.run, "03_sampling")
            assert sampling, "the set of RDED is there, so its picks are"
            options = replace(options, crops=Crops.of(sampling["params"]))
            pool = replace(pool, images=self.train.at(self.settings.image_size), teacher=self.teacher.model)
        images, labels = plain_images(self.train, pick(method, pool, options), storage.size)
        return storage.in_memory(method, self.train.classes, images, labels)

    def of_equal_bytes(self, own: ImageSet) -> dict[str, ImageSet]:
        """Random images kept at image_size, about as many of each class as take the bytes of `own`, by a name."""
        import numpy as np

        storage = self._small_storage
        some = self._drawn("random", storage, len(own) // len(own.classes))
        times = np.sum(np.asarray(own.stored_bytes)) / np.sum(np.asarray(some.stored_bytes))
        count = min(round(times * len(some) / len(some.classes)), int(self.train.counts().min()))
        return {EQUAL_BYTES: self._drawn("random", storage, max(count, 1))}

    def sets_elsewhere(self, folders: list[str], parameter: str) -> dict[str, ImageSet]:
        """Condensed sets in other folders, by the folders' names; `parameter` names them in messages."""
        from dc3 import condensed

        used = [str(self.use(folder)) for folder in folders]
        found = condensed.load_beside(used, self.train.classes, parameter)
        return {f"beside: {name}": images for name, images in found.items()}

    @cached_property
    def feature_network(self) -> FeatureNetwork:
        """The network of FID and KID that `feature_network` and `feature_weights` name."""
        from dc3.models import feature_networks

        path = self.params["feature_weights"]
        weights = str(self.use(path)) if path else None
        return feature_networks.feature_network(
            self.params["feature_network"], teacher=self.teacher.model, weights=weights, device=self.settings.device
        )

    def embed(self, images: ImageSet | np.ndarray) -> Embedded:
        """Features and logits of framed images by `feature_network`, cached for all runs."""
        from dc3.fidelity import cached_embed

        return cached_embed(images, self.feature_network, paths.FEATURES)

    def finish(self, **facts: Any) -> None:
        """Stops the engine and writes the manifest with the given facts and the device, if the stage used them."""
        opened = vars(self)
        if "engine" in opened:
            self.engine.stop()
        if "settings" in opened:
            facts["device"] = str(self.settings.device)
        super().finish(**facts)


def begin(name: str, namespace: dict[str, Any]) -> NotebookStage:
    """Begins a notebook's stage with the parameters in its `globals()`; raises like `stage.begin`."""
    return stage.begin(name, namespace, NotebookStage)
