"""The package as a wheel, in an environment and a folder of its own, away from the clone."""

import subprocess
import sys
import sysconfig
import venv

import pytest

from dc3.machine.paths import REPOSITORY
from dc3.runs.workspace import FOLDERS

pytestmark = [pytest.mark.slow, pytest.mark.process]
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-index", "--no-deps")


def call(*words, cwd):
    result = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The dc3 command of an environment that has the wheel, and finds the other packages in this one."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"  # of what git knows: building writes into the source
    call("git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, source, cwd=root)
    for changed in call("git", "ls-files", "--modified", "--others", "--exclude-standard", cwd=REPOSITORY).splitlines():
        if (REPOSITORY / changed).is_file():
            (source / changed).parent.mkdir(parents=True, exist_ok=True)
            (source / changed).write_bytes((REPOSITORY / changed).read_bytes())
    call(sys.executable, *PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", root / "dist", source, cwd=root)
    venv.create(root / "env", with_pip=True)
    python = root / "env/bin/python"
    call(python, *PIP, "install", *OFFLINE, next((root / "dist").glob("*.whl")), cwd=root)
    packages = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=root).strip()
    with open(f"{packages}/others.pth", "w", encoding="utf-8") as others:
        others.write(sysconfig.get_path("purelib"))
    return root / "env/bin/dc3"


@pytest.fixture(autouse=True)
def outside_the_clone(monkeypatch):
    for variable in ("PYTHONPATH", "DC3_HOME", "DC3_NOTEBOOKS"):
        monkeypatch.delenv(variable, raising=False)


def names(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("[!.]*"))


def test_the_wheel_has_a_command_and_all_that_a_folder_of_ones_own_needs(installed, tmp_path):
    assert "init" in call(installed, "--help", cwd=tmp_path)
    refused = subprocess.run([str(installed), "params"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "dc3 init FOLDER" in refused.stderr
    call(installed, "init", "play", cwd=tmp_path)
    for folder in FOLDERS:
        tracked = call("git", "ls-files", folder, cwd=REPOSITORY).splitlines()
        assert {str(path) for path in names(tmp_path / "play" / folder) if path.suffix} == {
            name.removeprefix(f"{folder}/") for name in tracked
        }
    listed = call(installed, "params", cwd=tmp_path / "play")
    assert "ipc: PositiveInt = 10  [03]" in listed and "note:" not in listed


def test_a_stage_runs_in_that_folder(installed, tmp_path):
    call(installed, "init", "play", cwd=tmp_path)
    run = (installed, "run", "params/demo.yaml", "--until", "00")
    few = ("-p", "images_per_class", "10", "-p", "teacher_epochs", "1", "-p", "teacher_min_accuracy", "0")
    call(*run, *few, cwd=tmp_path / "play")
    assert (tmp_path / "play/runs/demo/00_teacher/manifest.json").exists()
    assert (tmp_path / "play/figures/demo/teacher_confusion.png").exists()
