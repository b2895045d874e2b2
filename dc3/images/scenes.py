"""scenes10: random crops of ten photographs from the wheels of scikit-image and scikit-learn."""

from importlib.resources import files

import numpy as np
from PIL import Image

PHOTOGRAPHS = {  # class: (package, file); sorted, so that exported class folders load in the same order
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "immunohistochemistry": ("skimage", "data/ihc.png"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
CLASSES = tuple(PHOTOGRAPHS)
LICENCES = {  # class: (licence, whose), as scikit-image's skimage.data and scikit-learn's images/README.txt state them
    "astronaut": ("public domain", "NASA"),
    "chelsea": ("CC0 1.0", "Stéfan van der Walt"),
    "china": ("CC BY 2.0", "danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035"),
    "coffee": ("CC0 1.0", "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    "flower": ("CC BY 2.0", "vultilion, https://www.flickr.com/photos/vultilion/6056698931"),
    "hubble_deep_field": ("public domain", "NASA"),
    "immunohistochemistry": ("no known copyright restrictions", "Center for Microscopy And Molecular Imaging (CMMI)"),
    "motorcycle_left": ("unknown: none is stated", "Middlebury stereo data sets 2014, D. Scharstein and others"),
    "retina": ("CC0 1.0", "Mikael Häggström, doi:10.15347/wjm/2014.008"),
    "rocket": ("public domain", "SpaceX"),
}
TILE = 96
SMALLEST_CROP = 32
DEFAULT_COUNTS = {"train": 250, "test": 100}
SEED = 0  # of the crops
SPLIT_PARITY = {"train": 0, "test": 1}  # (row + column) % 2 of the split's tiles: the checkerboard


def photograph(name: str) -> Image.Image:
    """The RGB photograph of class `name`. FileNotFoundError when the installed package lacks it."""
    package, path = PHOTOGRAPHS[name]
    file = files(package).joinpath(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"dataset = 'scenes10': {package} has no {path}; reinstall the version that pyproject.toml names"
        )
    with file.open("rb") as stream:
        return Image.open(stream).convert("RGB")


def crop_box(width: int, height: int, class_number: int, split: str, index: int) -> tuple[int, ...]:
    """(left, top, right, bottom) of one example, a square of 32 to 96 px inside one whole tile of its split.

    A pure function of its arguments. Drawn from SeedSequence, whose output numpy promises not to change.
    """
    parity = SPLIT_PARITY[split]
    rows, columns = height // TILE, width // TILE
    tiles = [(row, column) for row in range(rows) for column in range(columns) if (row + column) % 2 == parity]
    words = np.random.SeedSequence([SEED, class_number, parity, index]).generate_state(4).tolist()
    row, column = tiles[words[0] % len(tiles)]
    side = SMALLEST_CROP + words[1] % (TILE - SMALLEST_CROP + 1)
    left = column * TILE + words[2] % (TILE - side + 1)
    top = row * TILE + words[3] % (TILE - side + 1)
    return left, top, left + side, top + side


def crops(split: str, per_class: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The first `per_class` examples of every class, class by class: squares uint8 (S, S, 3) of 32 to 96 px; labels."""
    pixels = []
    for class_number, name in enumerate(CLASSES):
        photo = np.asarray(photograph(name))
        height, width = photo.shape[:2]
        for index in range(per_class):
            left, top, right, bottom = crop_box(width, height, class_number, split, index)
            pixels.append(photo[top:bottom, left:right].copy())
    return pixels, np.repeat(np.arange(len(CLASSES)), per_class)
