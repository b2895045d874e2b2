"""Nothing that a run reads can run code, and nothing that is committed tells of the machine it was made on."""

import getpass
import os
import pickle
import re
import socket
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from dc3 import features
from dc3.machine.paths import NOTEBOOKS, REPOSITORY
from dc3.models import checkpoints, networks
from dc3.runs.parameters import ParameterError, check, declared, read_file
from dc3.runs.written import Argument

SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|USER|HOST|HOME|PATH|PWD|DIR|PROXY|URL")
LONG_ENOUGH = 6  # a shorter value, such as /root or utf8, may well be a word of the text; paths are looked for beside
PICTURE = re.compile(r"\"image/png\": \"[^\"]*\"")  # base64, in which any short path can occur
HOME_PATH = re.compile(r"/(root|home/\w+|Users/\w+|work|tmp|var|opt|mnt)/\w|[A-Z]:\\\\Users")


class Bomb:
    """A pickle that leaves a file behind when somebody loads it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "code was run"


def test_a_teacher_that_is_a_pickle_is_refused_unless_it_is_allowed(tmp_path, trace):
    model = networks.create("conv3", 3, 16, width=8, seed=0)
    path = tmp_path / "teacher.pt"
    torch.save({"model": model.state_dict(), "args": Bomb(trace)}, path)
    with pytest.raises(ValueError, match=r"teacher\.pt cannot be read as weights only .*allow_pickle: true"):
        checkpoints.load_foreign(path, "conv3", 3, 16, width=8)
    assert not trace.exists()
    loaded = checkpoints.load_foreign(path, "conv3", 3, 16, width=8, allow_pickle=True)
    assert trace.exists(), "what allow_pickle means"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_vae_with_a_pickle_for_its_weights_runs_nothing(tmp_path, trace):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "vae/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(FileNotFoundError, match="vae = "):
        features.load_vae(tmp_path / "vae")
    assert not trace.exists()


@pytest.mark.parametrize("call", ["os.system", "subprocess.getoutput"])
def test_a_params_file_is_data(tmp_path, trace, call):
    module, function = call.split(".")
    text = f"!!python/object/apply:{module}.{function} ['touch {trace.name}']"
    (tmp_path / "bad.yaml").write_text(f"ipc: {text}\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"bad\.yaml: line 1: remove the tag"):
        read_file(tmp_path / "bad.yaml")
    with pytest.raises(ParameterError, match=r"ipc = .* remove the tag"):
        check({"ipc": Argument(text)}, declared("03_sampling"))
    assert not trace.exists() and not Path(trace.name).exists()


def test_no_code_of_ours_reads_pickles_or_trusts_remote_code():
    forbidden = re.compile(
        r"weights_only=False|np\.load\(.*allow_pickle|trust_remote_code=|custom_pipeline|yaml\.(unsafe_load|full_load)|"
        r"\bpickle\.loads?\(|joblib\.load|read_pickle|torch\.load\((?!.*weights_only)"
    )
    assert forbidden.search("torch.load(path)") and not forbidden.search("torch.load(path, weights_only=True)")
    sources = [*REPOSITORY.glob("dc3/**/*.py"), *NOTEBOOKS.glob("*.ipynb")]
    found = [
        f"{path.name}: {hit.group()}"
        for path in sources
        for hit in forbidden.finditer(path.read_text(encoding="utf-8"))
    ]
    assert len(sources) > 40 and not found


def leaks(text, environment, identity):
    """What a text has of a machine: paths, values of telling environment variables, user and host names."""
    values = {value for name, value in environment.items() if SECRET_NAMES.search(name.upper())}
    telling = {part for value in values for part in {value, *value.split(os.pathsep)} if len(part) >= LONG_ENOUGH}
    named = {name for name in identity if len(name) >= LONG_ENOUGH}
    return sorted(
        {hit.group() for hit in HOME_PATH.finditer(text)} | {part for part in telling | named if part in text}
    )


def test_leaks_are_found():
    environment = {"HF_TOKEN": "hf_abcdef", "LANG": "C.UTF-8", "PATH": "/usr/local/weird/bin:/bin"}
    text = "token hf_abcdef, saved to /home/ada/x and /usr/local/weird/bin on C.UTF-8 by adalovelace"
    assert leaks(text, environment, ["adalovelace", "ada"]) == [
        "/home/ada/x", "/usr/local/weird/bin", "adalovelace", "hf_abcdef"]  # fmt: skip


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_tells_nothing_of_the_machine_it_ran_on(path):
    text = PICTURE.sub("", path.read_text(encoding="utf-8"))
    assert leaks(text, os.environ, [getpass.getuser(), socket.gethostname()]) == []
    assert "os.environ" not in text
