"""Every public name says what it is, so that `pydoc dc3.sampling` is the reference."""

import ast
from collections.abc import Iterator
from types import UnionType

import pytest

from dc3.machine.fingerprints import PACKAGE

MODULES = sorted(PACKAGE.rglob("*.py"))
DEFINITION = ast.ClassDef | ast.FunctionDef
Documented = ast.Module | DEFINITION
OF_ANOTHER = ("errors of `", "aises as")  # a docstring that leaves the errors to a neighbour's


def definitions(
    node: ast.Module | ast.ClassDef, kind: type | UnionType, prefix: str = ""
) -> Iterator[tuple[str, DEFINITION]]:
    for child in node.body:
        if isinstance(child, kind) and not child.name.startswith("_"):
            yield prefix + child.name, child


def documented(module: ast.Module) -> Iterator[tuple[str, Documented]]:
    """The module, its public functions and classes, their public methods and properties.

    What a call of an instance does, and its fields, stand in the docstring of the class.
    """
    yield "the module", module
    for name, node in definitions(module, DEFINITION):
        yield name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, ast.FunctionDef, f"{name}.")


def raised(node: ast.AST) -> set[str]:
    """The names of the exceptions that a function raises itself, but for typer's way to end a command."""
    raises = (found.exc for found in ast.walk(node) if isinstance(found, ast.Raise) and found.exc)
    names = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc).split(".")[-1] for exc in raises}
    return {name for name in names if name[0].isupper() and name != "Exit"}


def faults(source: str) -> list[str]:
    found = []
    for name, node in documented(ast.parse(source)):
        summary, *rest = (ast.get_docstring(node) or "").split("\n")
        if not summary:
            found.append(f"{name} has no docstring")
        elif summary[-1] not in ".:?" or (rest and rest[0]):
            found.append(f"{name}: the first line is not a sentence of its own")
        elif isinstance(node, ast.FunctionDef):
            text = " ".join([summary, *rest])
            silent = [] if any(words in text for words in OF_ANOTHER) else sorted(raised(node))
            found += [f"{name} does not say when it raises {error}" for error in silent if error not in text]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_public_name_has_a_docstring_that_reads_in_pydoc(path):
    assert not faults(path.read_text())


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1", "the module has no docstring"),
        ('"""M."""\ndef f(): ...', "f has no docstring"),
        ('"""M."""\n@dataclass\nclass C:\n    x: int', "C has no docstring"),
        ('"""M."""\nclass C:\n    """C."""\n    @property\n    def p(self): ...', "C.p has no docstring"),
        ('"""M."""\ndef f():\n    """One line and\n    another."""', "f: the first line is not a sentence of its own"),
        ('"""M."""\ndef f():\n    """F."""\n    raise x.Bad(1)', "f does not say when it raises Bad"),
    ],
)
def test_what_is_missing_is_named(source, fault):
    assert faults(source) == [fault]


@pytest.mark.parametrize(
    "source",
    [
        '"""M."""\ndef _f(): ...\nclass _C:\n    def f(self): ...',
        '"""M."""\nclass C:\n    """C."""\n    def __call__(self): ...\n    def _f(self): ...',
        '"""M."""\ndef f():\n    """F; raises as `g`."""\n    raise ValueError',
        '"""M."""\ndef f():\n    """Bad when it is."""\n    raise Bad("…") from None',
    ],
)
def test_what_needs_no_more_is_left_alone(source):
    assert not faults(source)
