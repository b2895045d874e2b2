"""The report of a run, in one HTML file that can be mailed: what it came to, and below it its executed notebooks."""

import base64
import html
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from dc3.machine import paths
from dc3.machine.files import replacing
from dc3.runs import results as run_summary
from dc3.runs.notebooks import strip_noise
from dc3.runs.results import Manifests, accuracy, without_machine_paths
from dc3.runs.runner import kernel_channel
from dc3.runs.stage import executed_copy, figures_of, read_manifest

SWEEP_NOTEBOOK = paths.REPOSITORY / "notebooks" / "sweep_report.ipynb"
PICTURES = [  # stage, heading, figure, what it shows
    ("04_compensation", "From pick to condensed image", "compensation_strips", "picks, warm and cold edits, blends"),
    ("03_sampling", "The picks among the images of their classes", "sampling_tsne", "a map a class, picks starred"),
    ("05_validation", "Learning curves", "validation_curves", "test accuracy over epochs, a line a training set"),
    ("06_color_and_fid", "Hues", "color_and_fid_hues", "share of chroma per hue, a rose a set"),
    ("06_color_and_fid", "Main colours", "color_and_fid_palettes", "the main colours of each set by their share"),
]
TABLES = [  # stage, heading, table, columns that are left out
    ("06_color_and_fid", "Colour", "color_and_fid_colors", r", (?:low|high)$"),
    ("06_color_and_fid", "Distance from the test images", "color_and_fid_distances", r"±$"),
    ("07_finetuning", "Fine-tuned generators", "finetuning_scores", r" std$"),
]


def write_report(run: str, out: Path | None = None, code: bool = False) -> Path:
    """Writes the page, by default to runs/<run>/report.html, and returns its path.

    Stages that are not finished are named; where their notebook was executed in part, that part stands at its place.
    No path of this machine is in it. Raises ValueError when there is no such run or none of its stages is finished.
    """
    found = run_summary.manifests(run)
    page = new_notebook(cells=[new_markdown_cell(part) for part in _summary(run, found)])
    for name in run_summary.stages(found)["stage"]:
        page.cells += _stage_cells(run, name, name in found)
    change_text(page, without_machine_paths_outside_pictures)
    out = out or paths.RUNS / run / "report.html"
    write_page(page, out, f"DC3: {run}", code)
    return out


def without_machine_paths_outside_pictures(text: str) -> str:
    """As `without_machine_paths`; the letters of an embedded picture, which may look like a path, are left alone."""
    parts = text.split('"')
    return '"'.join(part if part.startswith("data:image/") else without_machine_paths(part) for part in parts)


def _stage_cells(run: str, name: str, finished: bool) -> list:
    """The executed notebook of a stage below a place to jump to; none where it was not executed."""
    copy = executed_copy(run, name)
    if not copy.exists():
        return []
    state = "" if finished else "\n\n**This stage is not finished.** Its notebook got as far as this:"
    return [new_markdown_cell(f'<a id="{name}"></a>\n\n---{state}'), *nbformat.read(copy, as_version=4).cells]


def _summary(run: str, found: Manifests) -> list[str]:
    """The page on top, as Markdown."""
    parts = [f"# Run {run}\n\n{_headline(run, found)}", _contents(run, found), _accuracy(run, found)]
    for stage, heading, name, left_out in TABLES:
        table = run_summary.figure_table(run, found, stage, name)
        if table is not None:
            kept = table.loc[:, ~table.columns.str.contains(left_out)]
            parts.append(f"## {heading}\n\n{_html(kept)}")
    for stage, heading, name, text in PICTURES:
        path = paths.FIGURES / run / f"{name}.png"
        if path.name in found.get(stage, {}).get("figures", {}) and path.is_file():
            parts.append(f"## {heading}\n\n{picture(path, text)}")
    return [*filter(None, parts), _parameters(found), _stages(found)]


def _headline(run: str, found: Manifests) -> str:
    settings, params = run_summary.settings(run), run_summary.parameters(found)
    lines = [f"{params.get('dataset', 'images')}, {len(settings.get('classes', []))} classes"]
    lines += [f"{params['ipc']} images per class" if "ipc" in params else "", f"method {params.get('method', '?')}"]
    told = ", ".join(filter(None, lines)) + "."
    if missing := run_summary.missing(found):
        told += f"\n\n**Not finished: {', '.join(missing)}.** What would come from them is missing here."
    return told


def _contents(run: str, found: Manifests) -> str:
    names = [name for name in run_summary.stages(found)["stage"] if executed_copy(run, name).exists()]
    return "Executed notebooks: " + " · ".join(f"[{name.replace('_', ' ')}](#{name})" for name in names)


def _accuracy(run: str, found: Manifests) -> str:
    table = run_summary.accuracies(run, found)
    if table is None:
        return ""
    shown = pd.DataFrame(
        {
            "training set": table["method"],
            "student": table["network"],
            "students": table["seeds"],
            "test accuracy (%)": [accuracy(*row) for row in table[["top1_mean", "top1_std"]].to_numpy()],
        }
    )
    teacher = found[run_summary.VALIDATION]["facts"].get("teacher")
    told = f"\n\nThe teacher, trained on all images: {teacher:.1%}. ± is the deviation over seeds." if teacher else ""
    return f"## Accuracy\n\n{_html(shown)}{told}"


def _parameters(found: Manifests) -> str:
    table = run_summary.not_default(found)
    body = "All have the notebooks' defaults." if table.empty else _html(table)
    return f"## Parameters that differ from the defaults\n\n{body}"


def _stages(found: Manifests) -> str:
    table = run_summary.stages(found).rename(columns={"seconds": "wall time (s)"})
    libraries = ", ".join(f"{name} {version}" for name, version in run_summary.versions(found).items())
    return f"## Stages\n\n{_html(table)}\n\nVersions: {html.escape(libraries)}."


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, na_rep="", float_format="{:,.4g}".format, justify="left")


QUIET = logging.getLogger("dc3.nbconvert")  # which else warns of pictures without a text for those who cannot see them
QUIET.setLevel(logging.ERROR)
COLOR_CODES = re.compile(r"\x1b\[[0-9;]*m")
# nbconvert's page loads RequireJS, MathJax and Mermaid from a server; no notebook here has formulas or diagrams
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block html_head_css -%}
<style type="text/css">body { max-width: 62rem; margin: 0 auto; padding: 1rem; } img { max-width: 100%; }</style>
{%- endblock html_head_css -%}
"""


def write_page(notebook: NotebookNode, path: Path, title: str, code: bool = False) -> None:
    """Writes an executed notebook as HTML, with or without its code, complete or not at all."""
    notebook.metadata["title"] = title
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_input=not code, embed_images=True, log=QUIET)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    page, _ = exporter.from_notebook_node(notebook)
    with replacing(path) as partial:
        partial.write_text(page)


def picture(path: Path, text: str) -> str:
    """An <img> that holds the PNG itself; `text` for those who cannot see it."""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{content}" alt="{html.escape(text, quote=True)}">'


def change_text(notebook: NotebookNode, change: Callable[[str], str]) -> None:
    """Puts `change(text)` into the place of every text of a notebook, sources and outputs; pictures stay."""
    for cell in notebook.cells:
        cell.source = change(cell.source)
        for output in cell.get("outputs", []):
            for key in ("text", "evalue"):
                if key in output:
                    output[key] = change(output[key])
            if "traceback" in output:
                output["traceback"] = [change(COLOR_CODES.sub("", line)) for line in output["traceback"]]
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = change(content)


GALLERY = "README.md"


def write_gallery(folder: Path, stages: Sequence[str]) -> Path | None:
    """Writes the page over what stages ("03_sampling") left in `folder`; None where there is nothing yet."""
    sections = [section for stage in stages if (section := _section(folder, stage))]
    if not sections:
        return None
    heading = f"# Figures and tables of run {folder.name}\n\nWritten by `dc3 run`; for print there are PDFs beside."
    with replacing(folder / GALLERY) as partial:
        partial.write_text("\n\n".join([heading, *sections]) + "\n")
    return folder / GALLERY


def _section(folder: Path, stage: str) -> str:
    number, name = stage.split("_", 1)
    shown = [path for path in figures_of(folder, stage) if path.suffix in (".png", ".md")]
    parts = [_shown(path, path.stem.removeprefix(f"{name}_").replace("_", " ")) for path in shown]
    return "\n\n".join([f"## {number} {name.replace('_', ' ')}", *parts]) if parts else ""


def _shown(path: Path, title: str) -> str:
    if path.suffix == ".png":
        return f"**{title}**\n\n![{title}]({path.name})"
    return f"**{title}** ([csv]({path.with_suffix('.csv').name}))\n\n{path.read_text().strip()}"


def write_sweep_report(results: Path) -> Path | None:
    """Executes the report's notebook over a sweep's results.parquet; returns the path of the page (HTML, in one file).

    Notebook and page lie beside the results, pictures and tables in figures/<sweep>. None when no run is finished.
    """
    table = pd.read_parquet(results)
    if table.empty:
        return None
    executed = results.with_name("report.ipynb")
    partial = executed.with_suffix(".partial.ipynb")
    values = {"sweep": results.parent.stem, "results": str(results), "published_as": _published_as(table)}
    with kernel_channel() as channel:
        config = Config({"KernelManager": channel})
        papermill.execute_notebook(
            str(SWEEP_NOTEBOOK),
            str(partial),
            values,
            kernel_name="python3",
            cwd=str(SWEEP_NOTEBOOK.parent),
            config=config,
        )
    strip_noise(partial, executed)
    partial.unlink()
    page = executed.with_suffix(".html")
    write_page(nbformat.read(executed, 4), page, f"DC3: sweep {values['sweep']}")
    return page


def _published_as(table: pd.DataFrame) -> str:
    """The name in the literature of the image set of the first run, as its 05_validation was told."""
    manifest = read_manifest(table["run"].iloc[0], "05_validation")
    return (manifest or {"params": {}})["params"].get("published_as", "")
