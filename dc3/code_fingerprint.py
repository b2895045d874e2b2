"""The code that a notebook's result depends on: its cells and every dc3 module they import, at first or second hand."""

import ast
import hashlib
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from dc3.paths import NOTEBOOKS

PACKAGE = Path(__file__).resolve().parent
LAST = "stage.finish("  # in the last cell that a stage's result depends on
NOT_CODE = {"injected-parameters", "scratch"}  # tags of cells that the result does not depend on


def notebook_fingerprint(name: str, folder: Path = NOTEBOOKS, package: Path = PACKAGE) -> str:
    """Hex digest over the syntax trees, so that comments and layout do not count.

    Cells below `stage.finish` and those tagged `scratch` do not count either: looking around changes no result.
    SyntaxError naming the notebook and the cell that is no Python (shell and % lines are).
    """
    cells = _deciding_cells(nbformat.read(folder / f"{name}.ipynb", as_version=4), name)
    digest = hashlib.sha256(ast.dump(ast.parse(cells)).encode())
    digest.update(_modules_digest(cells, package))
    return digest.hexdigest()


def _deciding_cells(notebook: NotebookNode, name: str) -> str:
    """The code that decides a stage's result, as Python that `ast` reads."""
    sources = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or NOT_CODE & set(cell.metadata.get("tags", [])):
            continue
        source = TransformerManager().transform_cell(cell.source)
        try:
            ast.parse(source)
        except SyntaxError as error:
            raise SyntaxError(f"{name}.ipynb, cell [{number}] as it was saved is not Python: {error}") from error
        sources.append(source)
        if LAST in cell.source:
            break
    return "\n".join(sources)


def module_fingerprint(name: str, package: Path = PACKAGE) -> str:
    """The same of one module and all that it imports."""
    return _modules_digest(f"from dc3 import {name}", package).hex()


def _modules_digest(source: str, package: Path) -> bytes:
    digest = hashlib.sha256()
    for module in sorted(imported_modules(source, package)):
        digest.update(ast.dump(ast.parse((package / f"{module}.py").read_text())).encode())
        if (style := package / f"{module}.mplstyle").exists():
            digest.update(style.read_bytes())
    return digest.digest()


def imported_modules(source: str, package: Path = PACKAGE) -> set[str]:
    """The dc3 modules that a source imports, and those that they import."""
    found: set[str] = set()
    waiting = _direct_imports(source, package)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting |= _direct_imports((package / f"{module}.py").read_text(), package)
    return found


def _direct_imports(source: str, package: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "dc3":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dc3."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dc3.")}
    return {name for name in names if (package / f"{name}.py").exists()}
