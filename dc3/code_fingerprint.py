"""The code that a notebook's result depends on: its cells and every dc3 module they import, at first or second hand."""

import ast
import hashlib
from pathlib import Path

import nbformat

from dc3.paths import NOTEBOOKS

PACKAGE = Path(__file__).resolve().parent


def notebook_fingerprint(name: str, folder: Path = NOTEBOOKS, package: Path = PACKAGE) -> str:
    """Hex digest over the syntax trees, so that comments and layout do not count."""
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    cells = "\n".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    )
    digest = hashlib.sha256(ast.dump(ast.parse(cells)).encode())
    digest.update(_modules_digest(cells, package))
    return digest.hexdigest()


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
