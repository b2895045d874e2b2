"""Reports of runs and sweeps, each one HTML file."""

import logging
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from dc3.machine import paths
from dc3.machine.files import replacing
from dc3.machine.markup import literal
from dc3.runs import results
from dc3.runs.manifests import VALIDATION, NotAsWritten, read_manifest
from dc3.runs.results import Manifests, without_machine_paths
from dc3.runs.stage import executed_copy

if TYPE_CHECKING:  # nbformat takes seconds to import
    from nbformat import NotebookNode

Content = TypeVar("Content")
SWEEP_NOTEBOOK = paths.WORKSPACE / "notebooks" / "sweep_report.ipynb"
SUMMARY = """# Run {run}

{dataset}, {classes} classes, {ipc} images per class, method {method}.

{unfinished}{damaged}{by_hand}Executed notebooks: {links}

## Accuracy

{accuracy}

The teacher, trained on all images: {teacher}. ± is the standard deviation over seeds.

## Parameters that differ from the defaults

{parameters}

## Stages

{stages}

Versions: {versions}.
"""


def write_report(run: str, out: Path | None = None, code: bool = False) -> Path:
    """Writes a run's report, by default runs/<run>/report.html: a summary, then its executed notebooks.

    It names unfinished stages and damaged files, and shows what was executed and can be read. It contains no path of
    this machine. Raises ValueError for an unknown run, or one without finished stages.
    """
    from nbformat.v4 import new_markdown_cell, new_notebook

    found = results.manifests(run)
    notebook = new_notebook(cells=[new_markdown_cell(_summary(run, found))])
    for name in _executed(run):
        notebook.cells += _stage_cells(run, name, name in found)
    out = out or paths.RUNS / run / "report.html"
    with replacing(out) as partial:
        partial.write_text(_without_machine_paths(page(notebook, f"DC3: {run}", code), found), encoding="utf-8")
    return out


def _summary(run: str, found: Manifests) -> str:
    """The page's summary, as Markdown."""
    params, missing = results.parameters(found), ", ".join(results.missing(found))
    by_hand = ", ".join(name for name in found if name not in _executed(run))
    nothing: dict[str, Any] = {}
    settings, damage = _readable(results.settings, run, nothing)
    accuracy, more_damage = _readable(_accuracy, run, "Not readable.")
    teacher = found.get(VALIDATION, {"facts": {}})["facts"].get("teacher")
    versions = (f"{name} {version}" for name, version in results.versions(found).items())
    return SUMMARY.format(
        run=literal(run),
        dataset=params.get("dataset", "images"),
        classes=len(settings["classes"]) if "classes" in settings else "?",
        ipc=params.get("ipc", "?"),
        method=params.get("method", "?"),
        unfinished=f"**Not finished: {missing}.** Their results are missing here.\n\n" if missing else "",
        by_hand=f"Without an executed notebook, as after work by hand: {by_hand}.\n\n" if by_hand else "",
        damaged="".join(f"**Damaged: {literal(text)}.**\n\n" for text in (damage, more_damage) if text),
        links=" · ".join(f"[{name.replace('_', ' ')}](#{name})" for name in _executed(run)),
        accuracy=accuracy,
        teacher=f"{teacher:.1%}" if teacher else "not measured",
        parameters=_html(results.not_default(found)),
        stages=_html(results.stages(found).rename(columns={"seconds": "wall time (s)"})),
        versions=", ".join(versions),
    )


def _readable(read: Callable[[str], Content], run: str, otherwise: Content) -> tuple[Content, str]:
    """What `read` makes of a run, and ""; or `otherwise`, and what is damaged."""
    try:
        return read(run), ""
    except NotAsWritten as error:
        return otherwise, str(error)


def _accuracy(run: str) -> str:
    students = results.of_run(run)
    if students is None:
        return "05_validation is not finished."
    table = results.summary(students)
    table["test accuracy (%)"] = list(map(results.accuracy, table["top1_mean"], table["top1_std"]))
    columns = {"method": "training set", "ipc": "images per class", "test accuracy (%)": "test accuracy (%)"}
    columns |= {"network": "student", "seeds": "students", "stored_bytes": "bytes per class"}
    return _html(table[list(columns)].rename(columns=columns))


def _executed(run: str) -> list[str]:
    return [name for name in results.notebook_names() if executed_copy(run, name).exists()]


def _stage_cells(run: str, name: str, finished: bool) -> list:
    """The executed notebook of a stage, below an anchor for links."""
    import nbformat

    state = "" if finished else "\n\n**This stage is not finished.** Its notebook got as far as this:"
    try:
        cells = nbformat.read(executed_copy(run, name), as_version=4).cells
    except Exception as error:  # nbformat raises errors of many kinds for what is not a notebook
        cells, damage = [], f"{type(error).__name__}; a run with --from {name[:2]} makes it again"
        state = f"\n\n**The executed notebook of {name} is damaged** ({literal(damage)})."
    heading = nbformat.v4.new_markdown_cell(f'<a id="{name}"></a>\n\n---{state}')
    return [heading, *cells]


def _html(table: pd.DataFrame) -> str:
    """The table as HTML, so that Markdown does not interpret its values."""
    if table.empty:
        return "None."
    return table.to_html(index=False, border=0, na_rep="", float_format=_number)


def _number(value: float) -> str:
    """A number with four digits, or with all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _without_machine_paths(text: str, found: Manifests) -> str:
    """`without_machine_paths` outside embedded pictures, whose base64 may look like a path."""
    cuts = {}
    for value in results.parameters(found).values():
        if isinstance(value, str) and value != (cut := results.without_folders(value)):  # it may have blanks
            cuts[rf"(?<![\w./<]){re.escape(escape(value))}(?![\w-])"] = escape(cut).replace("\\", r"\\")
    parts = text.split('"')
    return '"'.join(part if part.startswith("data:image/") else _cut(part, cuts) for part in parts)


def _cut(text: str, cuts: dict[str, str]) -> str:
    for pattern, short in cuts.items():
        text = re.sub(pattern, short, text)
    return without_machine_paths(text)


QUIET = logging.getLogger("dc3.nbconvert")  # it warns of pictures without alternative text
QUIET.setLevel(logging.ERROR)
# nbconvert's page loads RequireJS, MathJax and Mermaid from a server; no notebook here has formulas or diagrams
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block html_head_css -%}
{{ resources.include_css("static/theme-dark.css")
   | replace('<style type="text/css">', '<style media="(prefers-color-scheme: dark)">') }}
<style type="text/css">
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 0 auto; padding: 1rem; background: var(--jp-layout-color0); }
img { max-width: 100%; height: auto; }
.jp-RenderedHTMLCommon table { margin-left: 0; }
.jp-RenderedHTMLCommon th, .jp-RenderedHTMLCommon td { text-align: left !important; }
.jp-RenderedMarkdown, .jp-RenderedHTML { overflow-x: auto; }
@media (max-width: 30rem) {
  body { padding: 0.5rem; }
  .jp-RenderedHTMLCommon table { font-size: 75%; }
  .jp-RenderedHTMLCommon th, .jp-RenderedHTMLCommon td { padding: 0.3em; }
}
</style>
{%- endblock html_head_css -%}
"""


def page(notebook: "NotebookNode", title: str, code: bool = False) -> str:
    """An executed notebook as self-contained HTML, with or without its code."""
    from nbconvert import HTMLExporter

    notebook.metadata["title"] = title
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_input=not code, embed_images=True, log=QUIET)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    return exporter.from_notebook_node(notebook)[0]


def write_executed(notebook: Path, values: dict[str, Any], executed: Path, title: str) -> Path:
    """Executes a notebook with `values` into `executed`, writes its page beside it, and returns the page's path.

    StageFailed when a cell raises.
    """
    import nbformat

    from dc3.runs.kernels import execute_notebook, failing, strip_noise

    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_suffix(".partial.ipynb")
    try:
        with failing(notebook.stem, executed):
            execute_notebook(notebook, partial, values)
        strip_noise(partial, executed)
    finally:
        partial.unlink(missing_ok=True)
    target = executed.with_suffix(".html")
    with replacing(target) as half_written:
        half_written.write_text(page(nbformat.read(executed, 4), title), encoding="utf-8")
    return target


def write_sweep_report(table: Path) -> Path | None:
    """Executes the report's notebook for a sweep's results.parquet; returns the page's path.

    None when no run is finished. Notebook and page lie beside the results, pictures and tables in figures/<sweep>.
    """
    runs = pd.read_parquet(table)["run"]
    if runs.empty:
        return None
    manifest = read_manifest(runs.iloc[0], VALIDATION) or {"params": {}}
    sweep, published_as = table.parent.stem, manifest["params"].get("published_as", "")
    values = {"sweep": sweep, "results": str(table), "published_as": published_as}
    return write_executed(SWEEP_NOTEBOOK, values, table.with_name("report.ipynb"), f"DC3: sweep {sweep}")
