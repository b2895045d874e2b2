"""What `dc3 compare` prints (`dc3.runs.compare`)."""

from collections.abc import Iterator

import pandas as pd

from dc3.runs.compare import Comparison

CLASSES_SHOWN = 20
HEADINGS = {
    "parameters": "Parameters that differ",
    "accuracy": "Test accuracy (%)",
    "measures": "Colour and distance from the test images",
    "picks": "Picks in common",
    "times": "Time (s)",
}
DECIMALS = {"accuracy": 1, "measures": 3, "picks": 2, "times": 1}


def told(compared: Comparison) -> str:
    """Tables and remarks, as lines."""
    return "\n".join(_lines(compared))


def _lines(compared: Comparison) -> Iterator[str]:
    yield f"{compared.first} | {compared.second}; difference: {compared.second} less {compared.first}"
    yield from (f"note: {remark}" for remark in compared.remarks)
    for name, table in compared.tables.items():
        yield f"\n{HEADINGS[name]}"
        yield from _table(name, table)


def _table(name: str, table: pd.DataFrame) -> Iterator[str]:
    if table.empty:
        yield "none"
        return
    shown = table
    if name == "measures":
        shown = table[table["difference"] != 0]
        yield f"the same in both: {len(table) - len(shown)} of {len(table)} measures"
    if name == "picks":
        common = table["in common"].sum()
        yield f"{common:,} in all classes; mean Jaccard {table['Jaccard'].mean():.2f}"
        if len(table) > CLASSES_SHOWN:
            half = CLASSES_SHOWN // 2
            ordered = table.sort_values("Jaccard", kind="stable")
            shown = pd.concat([ordered.head(half), ordered.tail(half)])
            yield f"the {half} classes with the least and the {half} with the most in common:"
    if shown.empty:
        return
    places = DECIMALS.get(name, 3)
    yield shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:,.{places}f}")
