"""One colour a training set: DC3's is the same in every figure, whatever stands beside it."""

from collections.abc import Iterable

from matplotlib import rcParams

from dc3.figures import style  # noqa: F401 - its style has the colours

CYCLE: list[str] = rcParams["axes.prop_cycle"].by_key()["color"]
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW = CYCLE  # Okabe and Ito's
GREY = "#808080"  # light enough for lines in a filled mark
OF_SET = {
    "DC3": BLUE,
    "DC3 picks, plain": ORANGE,
    "picks": ORANGE,
    "condensed": BLUE,
    "random": GREEN,
    "RDED": VERMILION,
    "herding": PURPLE,
    "DQ": SKY,
    "full set": GREY,
}


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each of `names`: its own in OF_SET, for others those that are left, in the order of the style."""
    distinct = list(dict.fromkeys(names))
    taken = {OF_SET[name] for name in distinct if name in OF_SET}
    left = [color for color in CYCLE if color not in taken] or CYCLE
    others = [name for name in distinct if name not in OF_SET]
    rest = {name: left[k % len(left)] for k, name in enumerate(others)}
    return {name: OF_SET.get(name) or rest[name] for name in distinct}
