"""The code that a notebook's result depends on: its cells and every dc3 module they import, directly or indirectly."""

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dc3.machine import paths
from dc3.machine.files import LinkLoop, sha256
from dc3.machine.paths import PACKAGE, Place, files_below, is_hidden, marks

BY_METHOD = Path("runs/notebook_stage.py")  # the imports of its methods count for the notebooks that use them
LAST = "stage.finish("  # in the last cell that decides a stage's result
NOT_CODE = {"injected-parameters", "scratch"}  # tags of cells that do not decide it


def notebook_fingerprint(name: str, folder: Path | None = None, package: Path = PACKAGE) -> str:
    """Hex digest over the syntax trees, so that comments and layout do not count.

    Cells after `stage.finish` and cells tagged `scratch` do not count either.
    SyntaxError naming the notebook and the cell that is not Python (shell and % lines are allowed).
    """
    path = (folder or paths.NOTEBOOKS) / f"{name}.ipynb"
    cells = _deciding_cells(json.loads(path.read_text(encoding="utf-8")), name)
    digest = hashlib.sha256(_parsed(cells).tree)
    digest.update(_modules_digest(cells, package))
    return digest.hexdigest()


def _deciding_cells(notebook: dict[str, Any], name: str) -> str:
    """The code that decides a stage's result, as plain Python."""
    sources = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or NOT_CODE & set(cell["metadata"].get("tags", [])):
            continue
        written = "".join(cell["source"])
        try:
            sources.append(_as_python(written))
        except SyntaxError as error:
            raise SyntaxError(f"{name}.ipynb, cell [{number}]: the saved source is not Python: {error}") from error
        if LAST in written:
            break
    return "\n".join(sources)


def _as_python(source: str) -> str:
    """The source, with shell and % lines turned into the calls that IPython makes of them."""
    try:
        ast.parse(source)
        return source
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # half a second to import, rarely needed

        transformed = TransformerManager().transform_cell(source)
        ast.parse(transformed)
        return transformed


def module_fingerprint(name: str, package: Path = PACKAGE) -> str:
    """The same for one module ("binning", "figures.style") and everything it imports."""
    return _modules_digest(f"import dc3.{name}", package).hex()


def _modules_digest(source: str, package: Path) -> bytes:
    digest = hashlib.sha256()
    for file in sorted(imported_files(source, package)):
        digest.update(_parsed(file.read_text(encoding="utf-8")).tree)
        for style in sorted(file.parent.glob(f"{file.stem}.mplstyle")):
            digest.update(style.read_bytes())
    return digest.digest()


def imported_files(source: str, package: Path = PACKAGE) -> set[Path]:
    """The files of the dc3 modules that a source imports, directly or indirectly."""
    found: set[Path] = set()
    waiting = set(_files_named(_parsed(source).imports, package))
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            text = file.read_text(encoding="utf-8")
            by_method = file == package / BY_METHOD
            waiting |= set(_files_named(_imports_in_use(text, source) if by_method else _parsed(text).imports, package))
    return found


def _files_named(imports: Iterable[str], package: Path) -> Iterator[Path]:
    for name in imports:
        first, *parts = name.split(".")
        if first == "dc3":
            yield from _files_of(package, parts)


def _imports_in_use(module: str, source: str) -> Iterator[str]:
    """What a module imports outside its classes, and in those methods that `source` or a method in use names."""
    tree = ast.parse(module)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)}
    yield from _imported_names(ast.Module([node for node in tree.body if node not in classes], []))
    waiting, seen = _attributes(ast.parse(source)) & methods.keys(), set[str]()
    while waiting:
        seen.add(name := waiting.pop())
        yield from _imported_names(methods[name])
        waiting |= (_attributes(methods[name]) & methods.keys()) - seen


def _attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


class _Parsed(NamedTuple):
    """A source's syntax tree as SHA-256, and the dotted names that it imports."""

    tree: bytes
    imports: tuple[str, ...]


@cache
def _parsed(source: str) -> _Parsed:
    """Cached, because the notebooks of a run import the same modules."""
    tree = ast.parse(source)
    return _Parsed(hashlib.sha256(ast.dump(tree).encode()).digest(), tuple(_imported_names(tree)))


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """All that a tree imports, but for type checkers alone."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def _files_of(package: Path, parts: list[str]) -> Iterator[Path]:
    """The modules on a dotted path below dc3, packages by their __init__; the last part may be a name in a module."""
    place = package
    for part in parts:
        place = place / part
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not file.exists():
            return
        yield file


SMALL = 64 << 20  # bytes: up to here the content counts, which is the same in every clone and copy


def path_fingerprint(path: Place) -> str:
    """Hex digest of a file or folder: names and contents up to SMALL bytes in all, else names, sizes and times.

    A large one may hold hundreds of gigabytes. For a URL names, sizes and ETags count. Files that `is_hidden` do not:
    looking into a folder with Finder or Jupyter does not change it. LinkLoop for a folder that contains itself.
    """
    if not isinstance(path, Path):
        visible = {name: mark for name, mark in marks(path).items() if not is_hidden(name)}
        return hashlib.sha256(repr(visible).encode("utf-8", "surrogateescape")).hexdigest()
    digest, total, small = hashlib.sha256(), 0, []
    files = [str(path)] if path.is_file() else (os.path.join(path, name) for name in files_below(path))
    for file in filter(os.path.isfile, files):
        status = os.stat(file)
        total += status.st_size
        digest.update(_line(path, file, f"{status.st_size}\0{status.st_mtime_ns}"))
        if total <= SMALL:
            small.append(file)
    if total <= SMALL:
        digest = hashlib.sha256(b"".join(_line(path, file, sha256(file)) for file in small))
    return digest.hexdigest()


def _line(path: Path, file: str, mark: str) -> bytes:
    return f"{os.path.relpath(file, path)}\0{mark}\n".encode("utf-8", "surrogateescape")


def is_unchanged(path: Place, fingerprint: str) -> bool:
    """Whether the path still has that fingerprint; False when it is unreadable, which its stage reports."""
    try:
        return path_fingerprint(path) == fingerprint
    except (LinkLoop, OSError):
        return False
