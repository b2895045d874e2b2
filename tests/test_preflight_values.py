"""Values that a stage would refuse after the hours before it are refused at once."""

import subprocess
import sys

import pytest

from dc3.machine import paths
from dc3.runs.checks import check_inputs, check_values
from dc3.runs.parameters import ParameterError, all_declared, check, read_file

FILES = sorted((paths.REPOSITORY / "params").glob("*.yaml"))


@pytest.fixture(scope="module")
def declared():
    return all_declared()


@pytest.mark.parametrize("path", [path for path in FILES if not path.stem.endswith("_sweep")], ids=lambda p: p.stem)
def test_every_params_file_passes(path, declared):
    check_values(check(read_file(path), declared))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"instruction": "make it warm"}, r"instruction = 'make it warm': has no \{p\}; write"),
        ({"instruction": "{p} and {q}"}, r"instruction = '\{p\} and \{q\}': only \{p\} may be in braces"),
        ({"guidance_from": 0.6, "guidance_until": 0.4}, r"guidance_from = 0\.6: .* guidance_until = 0\.4; give"),
        ({"guidance_until": 1.2}, r"guidance_until = 1\.2 is not allowed: must be less than or equal to 1"),
        ({"guidance_from": -0.1}, r"guidance_from = -0\.1 is not allowed: must be greater than or equal to 0"),
        ({"edit_steps": 0}, "edit_steps = 0 is not allowed: must be greater than 0"),
        ({"sampler": "ddim"}, "sampler = 'ddim' is not allowed: must be 'euler_a', 'dpmpp_2m' or 'unipc'"),
        ({"student_ema": 1.0}, r"student_ema = 1\.0: a decay from 0 to below 1"),
        ({"student_batch_size": 1}, "student_batch_size = 1: at least 2"),
        ({"student_network": "conv6"}, r"student_network = 'conv6': .*needs image_size ≥ 64, got 32; .*choose conv3"),
        ({"cross_networks": ["conv3", "conv6"]}, r"cross_networks = \['conv3', 'conv6'\]: network = 'conv6': halves"),
        ({"teacher_network": "vit_b_16", "image_size": 28}, "teacher_network = 'vit_b_16': .*use a multiple of 3"),
        ({"factor": 33}, "factor = 33: expected 1 to 32 patches per side"),
        ({"published_as": "CIFAR-11"}, "published_as = 'CIFAR-11': choose one of CIFAR-10, "),
        ({"feature_network": "resnet_18"}, "feature_network = 'resnet_18': choose teacher, inception, .*resnet18, "),
        ({"dit_patch": 3}, "dit_patch = 3: must divide the latents' side, 16 for images of 32 px"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_refusal_names_parameter_value_and_what_is_allowed(values, told, declared):
    with pytest.raises(ParameterError, match=told):
        check_values(check(values, declared))


def test_what_is_not_used_is_not_asked_for(declared):
    unused = {"teacher": "IMAGENET1K_V1", "teacher_network": "conv6", "compared": [], "crops_per_side": 9}
    check_values(check(unused | {"generators": ["lora"], "dit_patch": 3}, declared))
    check_values({"run": "of other notebooks", "dataset": "scenes10", "image_size": 32})


def test_all_refusals_come_at_once(declared):
    with pytest.raises(ParameterError) as caught:
        check_values(check({"student_ema": 1.0, "factor": 33, "dit_patch": 3}, declared))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("rows", [[1, 2], [*range(9), 0], [*range(9), 1000]], ids=["few", "twice", "no such row"])
def test_a_row_of_the_checkpoint_for_each_class(rows, declared, tmp_path):
    given = check({"dit_base": str(tmp_path), "dit_rows": rows}, declared)
    with pytest.raises(ParameterError, match=r"dit_rows = .*: expected 10 different numbers below 1000"):
        check_inputs(given)
    check_inputs(given | {"dit_rows": list(range(990, 1000))})
    check_inputs(given | {"generators": ["lora"]})


def test_crops_that_are_too_small_for_rded(declared):
    with pytest.raises(ParameterError, match="crops_per_side = 9: at image_size 32 rded takes 1 to 8; or remove rded"):
        check_inputs(check({"crops_per_side": 9}, declared))


def test_the_checks_are_imported_without_torch():
    """A mistyped parameter is refused at once."""
    code = "import sys; from dc3.runs.checks import check_inputs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
