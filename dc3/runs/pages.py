"""Notebooks as pages: one HTML file each that needs nothing beside it and asks nothing of the network."""

import base64
import html
import logging
import re
from collections.abc import Callable
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode

from dc3.machine.files import replacing

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
