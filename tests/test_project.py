"""The repository as a whole: what is committed, and what installs it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml

from dc3.machine.paths import NOTEBOOKS, REPOSITORY, SHIPPED_EDITOR
from dc3.runs.stage import noun

MEGABYTE = 1e6
NOT_IN_THE_DEMO = {  # what notebooks show only for other parameters or data
    "teacher_curve.png",  # a trained teacher
    "validation_published.csv",  # the embedded images have no published numbers
    "validation_published.png",
    "validation_ranking.csv",  # where ranking_scores is true
}
MACHINE_PATH = re.compile(r"/(root|work|tmp|home/\w+|Users/\w+)/")


def committed():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


def notebooks():
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def test_conda_installs_from_the_same_two_files_as_make():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[test]"]
    others = [entry for entry in environment["dependencies"] if not isinstance(entry, dict)]
    assert others == ["python=3.11", "pip"], "a dependency outside pyproject.toml would drift"
    assert "-c constraints.txt -e '.[test]'" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(("version", "found"), [((3, 10), ""), ((3, 11), "python3"), ((3, 13), "python3")])
def test_make_takes_any_python_that_the_package_takes(tmp_path, version, found):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"
    python = tmp_path / "python3"
    pretending = f'exec {sys.executable} -c "import sys; sys.version_info = {version}; $2"'
    python.write_text(f"#!/bin/sh\n{pretending}\n", encoding="utf-8")
    python.chmod(0o755)
    (tmp_path / "python").symlink_to("/bin/false")
    install = [shutil.which("make"), "--dry-run", "--always-make", ".venv/installed"]
    environment = {"PATH": str(tmp_path)}
    steps = subprocess.run(install, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert steps.startswith(f'test -n "{found}" ||')


def test_every_dependency_is_pinned_within_its_range():
    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split())
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            assert requirement.extras <= extras.keys(), "an extra that names others"
            continue
        assert requirement.specifier.contains(pins[requirement.name]), text


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_committed_notebook_is_a_document(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "nbval compares nothing in a cell that was never executed"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert notebook.cells[0].cell_type == "markdown" and "?**" in notebook.cells[0].source, "it opens with its question"
    assert not MACHINE_PATH.search(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 1.5 * MEGABYTE


def test_committed_files_are_small():
    for path in committed():
        limit = 0.3 if "figures" in path.relative_to(REPOSITORY).parts else 16
        assert path.stat().st_size < limit * MEGABYTE, path
    assert sum(path.stat().st_size for path in SHIPPED_EDITOR.rglob("*") if path.is_file()) < 16 * MEGABYTE


def test_no_committed_text_names_a_machines_path():
    for path in committed():
        if path.suffix in (".md", ".yaml", ".yml", ".toml", ".json", ".csv", ".txt", ".ipynb"):
            assert not MACHINE_PATH.search(path.read_text(encoding="utf-8")), path


def test_the_demos_figures_are_those_of_its_notebooks():
    figures = {path.name for path in (REPOSITORY / "figures/demo").iterdir()}
    shown = set()
    for path in notebooks():
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for kind, name in re.findall(r'stage\.(show|show_table)\(.*?[(, ]"(\w+)"\)', "\n".join(code)):
            shown.add(f"{noun(path.stem)}_{name}{'.png' if kind == 'show' else '.csv'}")
    assert len(shown) > 20 and shown - figures == NOT_IN_THE_DEMO


def test_every_test_that_the_documents_name_is_there():
    named = []
    for path in [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]:
        named += re.findall(r"`(test_\w+\.py)(?:::(\w+))?", path.read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_text_file_is_read_and_written_with_an_encoding():
    """Also of paths whose type ruff cannot tell."""
    for path in (path for path in committed() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                assert "encoding" in {keyword.arg for keyword in node.keywords}, f"{path.name}:{node.lineno}"
