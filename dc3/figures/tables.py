"""The files of tables: a CSV in full, and Markdown to read."""

import csv
from pathlib import Path

import pandas as pd

from dc3.machine.files import replacing
from dc3.machine.markup import literal

MAX_ROWS = 100  # in Markdown: a table of 1,000 classes is for the CSV


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as path.csv, all rows in full precision, and as path.md, at most MAX_ROWS rows, to read.

    In Markdown texts are literal: a class called `$1|<b>` is no formula, no column and no markup.
    """
    with replacing(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False, quoting=_quoting(table))
    with replacing(path.with_suffix(".md")) as partial:
        partial.write_text(_markdown(table, f"{path.name}.csv"), encoding="utf-8")


def _quoting(table: pd.DataFrame) -> int:
    """Quotes around all texts when one has a carriage return, which Python's csv takes for the end of a row."""
    returns = table.map(lambda value: isinstance(value, str) and "\r" in value).to_numpy().any()
    return csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL


def _markdown(table: pd.DataFrame, whole: str) -> str:
    shown = table.head(MAX_ROWS)
    texts = [k for k, column in enumerate(table) if not pd.api.types.is_numeric_dtype(table[column])]
    shown = shown.map(lambda value: literal(value) if isinstance(value, str) else value)
    shown.columns = [literal(str(name)) for name in table]
    text = shown.to_markdown(index=False, floatfmt=".3g", disable_numparse=texts)
    more = f"\n\nThe first {MAX_ROWS} of {len(table):,} rows; {whole} has all." if len(table) > MAX_ROWS else ""
    return f"{text}{more}\n"
