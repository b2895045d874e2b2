"""Values that a stage would refuse after the hours before it are refused at once."""

import resource
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from dc3.machine import devices, paths
from dc3.runs.checks import check_inputs, check_values
from dc3.runs.parameters import ParameterError, all_declared, check, read_file
from dc3.runs.written import Argument

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
        ({"dit_width": 6}, "dit_width = 6: a multiple of 4"),
        ({"generate_size": 33, "generators": ["lora"]}, "generate_size = 33: a multiple of 2"),
        ({"encode_size": 33}, "encode_size = 33: a multiple of 2"),
        ({"edit_size": 33}, "edit_size = 33: a multiple of 2"),
        ({"stored_size": 16}, "stored_size = 16: students crop images of image_size = 32 px"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_refusal_names_parameter_value_and_what_is_allowed(values, told, declared):
    with pytest.raises(ParameterError, match=told):
        check_values(check(values, declared))


SEEDS = ["student_seeds", "finetune_seeds"]
LOCATIONS = ["data_dir", "teacher", "vae", "editor", "condensed_out", "condensed_dir", "color_condensed_dirs"]
LOCATIONS += ["feature_weights", "dit_base", "lora_base"]
ABSURD = {  # parameters → values that would fail hours later, or never end
    "seed": ["-1", str(2**70)],
    "student_lr lam temperature guidance_scale image_guidance_scale dit_lr lora_lr dit_guidance lora_guidance": [
        ".inf", "-.inf", ".nan", "1e30", "1e999", "-1", "1" * 5000,
    ],
    "student_lr temperature dit_lr lora_lr": ["1e-20"],
    "dit_guidance lora_guidance": ["0.5"],  # the libraries take it for none
    "sure_share edit_strength ramp cell ray_gpus guidance_from student_ema class_dropout teacher_min_accuracy": [
        ".inf", ".nan", "1.5", "-0.5",
    ],
    "ray_gpus": ["1e-20"],
    "teacher_width student_width dit_width dit_heads dit_depth lora_rank ray_actors": ["0", "100000"],
    "teacher_epochs student_epochs dit_steps lora_steps": ["0", "100000000"],
    "edit_steps dit_generate_steps lora_generate_steps": ["0", "1001"],
    "encode_batch_size gradient_batch_size edit_batch_size dit_batch_size lora_batch_size generate_batch_size": [
        "0", "100000000",
    ],
    "student_batch_size student_accumulate finetune_accumulate crop_tries images_generated": ["-1", "100000000"],
    "image_size encode_size edit_size stored_size generate_size": ["1", "-8", "1000000"],
    "ipc bins components map_images color_images crop_images nearest crops_per_side factor evaluate_every": [
        "0", str(2**40), "1" * 5000, "[" * 2_000,
    ],
    "images_per_class": ["-1", str(2**40)],
    "jpeg_quality": ["0", "100"],
    "smaller_ipcs dit_rows": ["[-1]", f"[{2**40}]"],
    " ".join(SEEDS): ["[]", "[-1]", f"[{2**70}]", "[0, 0, 0]", "[1.5]", "[" * 2_000, "[" + "1" * 5000 + "]"],
    "instruction prompt_template published_as vae_revision ray_address feature_network": ["\0", "x\x1b[2J", "x" * 1001],
    "warm_prompts cold_prompts lora_targets": ["[]", '["\\0"]', '["\\e[2J"]', f"[{'x' * 1001}]"],
    "class_names": ['["\\0"]', f"[{'x' * 1001}]"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "values"), ABSURD.items(), ids=lambda of: of.split()[0] if isinstance(of, str) else ""
)
def test_what_could_only_fail_late_is_refused_by_name_and_printed_harmlessly(names, values, declared):
    for name in names.split():
        for value in values:
            with pytest.raises(ParameterError, match=rf"^{name} = ") as caught:
                check({name: Argument(value)}, declared)
            assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_every_number_has_limits(declared):
    """A parameter that is added with a type without an upper limit would not be noticed by the test above."""
    for name, parameter in declared.items():
        kind = type(
            parameter.default[0] if isinstance(parameter.default, list) and parameter.default else parameter.default
        )
        if kind in (int, float):
            most = kind(1e15)
            with pytest.raises(ParameterError, match=rf"^{name} = "):
                check({name: [most] if isinstance(parameter.default, list) else most}, declared)


@pytest.mark.parametrize("name", LOCATIONS)
def test_a_path_that_no_file_system_takes_is_refused_by_name(name, declared):
    for path in ("x" * 256, "/" + "é" * 128, "a/" * 501):
        value = [path] if declared[name].type_name == "FolderList" else path
        with pytest.raises(ParameterError, match=rf"^{name} = "):
            check({name: value}, declared)


@pytest.mark.parametrize("name", [name for name in LOCATIONS if name not in ("data_dir", "condensed_out")])
def test_a_path_with_an_unknown_home_is_named(name, declared):
    path = "~nobody-of-this-name/x.pt"
    given = {name: [path] if declared[name].type_name == "FolderList" else path}
    with pytest.raises(ParameterError, match=rf"^{name} = '~nobody"):
        check_inputs(check(given, declared))


@pytest.mark.parametrize(
    "braces", ["{p:1000000000}", "{p!r}", "{p[0]}", "{p.x}", "{p:{p}}", "{0}", "{}", "{{p}}", "{", "}"]
)
def test_an_instruction_is_not_formatted_before_its_braces_are_known(braces, declared):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for instruction in (braces, "{p} " + braces) if braces != "{{p}}" else (braces,):
        with pytest.raises(ParameterError, match=r"^instruction = .*\{p\}"):
            check_values(check({"instruction": instruction}, declared))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB on Linux, bytes on macOS"


def test_ordinary_instructions_pass(declared):
    for instruction in ("{p}", "make it {p}, {p} and 100 % {{bright}}"):
        check_values(check({"instruction": instruction}, declared))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lora_targets": ["to_q", "to_z"]}, r"lora_targets = \['to_q', 'to_z'\]: the U-Net has no layers .*'to_z'"),
        ({"lora_targets": ["norm1"]}, r"lora_targets = \['norm1'\]: Target module GroupNorm"),
        ({"lora_targets": [""]}, r"lora_targets = \[''\]"),
        ({"class_names": ["cat"] * 10}, r"prompt_template: 'a photo of a cat' and .* are the same to the model"),
        (
            {"prompt_template": "word " * 100 + "{class}"},
            "prompt_template: .* are the same to the model, which reads 32",
        ),
    ],
    ids=["targets", "not trainable", "empty", "equal names", "a long prompt"],
)
def test_what_the_text_to_image_model_would_refuse_is_refused_before_it_is_loaded(values, told, declared):
    with pytest.raises(ParameterError, match=told):
        check_inputs(check(values, declared))
    check_inputs(check(values | {"generators": ["dit"]}, declared))


@pytest.mark.parametrize("name", ["vae", "editor", "lora_base", "dit_base"])
def test_a_folder_that_holds_no_model_is_refused(name, declared, tmp_path):
    with pytest.raises(ParameterError, match=rf"^{name} = .*: has no .*json; give a folder in diffusers' format"):
        check_inputs(check({name: str(tmp_path)}, declared))
    if name != "dit_base":  # where it stands for a new one
        with pytest.raises(ParameterError, match=rf"^{name} = ''"):
            check_inputs(check({name: ""}, declared))


def test_a_device_that_is_not_there_is_refused(declared, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ParameterError, match="device = 'cuda': not available on this machine"):
        check_values(check({"device": "cuda"}, declared))


@pytest.mark.parametrize("name", ["edit_compile", "student_compile"])
def test_a_machine_that_cannot_compile_says_so_before_it_runs(name, declared, monkeypatch):
    def refuse(function):
        raise RuntimeError("No working C++ compiler found\nin many lines")

    devices.why_no_compile.cache_clear()
    monkeypatch.setattr("torch.compile", refuse)
    with pytest.raises(ParameterError, match=rf"^{name} = True: .*\(No working C\+\+ compiler found\); give false"):
        check_values(check({name: True}, declared))
    devices.why_no_compile.cache_clear()


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
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "DiT"]}', encoding="utf-8")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").touch()
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


def draw_set(folder, names, size=8):
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (size, size)).save(folder / name / "1.png")
    return folder


NUMBERED = [f"{label:05d}" for label in range(10)]  # as many classes as the embedded images have


@pytest.mark.parametrize("name", ["condensed_dir", "color_condensed_dirs"])
def test_a_set_from_elsewhere_that_a_stage_would_refuse_is_refused_before(name, declared, tmp_path):
    def refused(path, told):
        with pytest.raises(ParameterError, match=rf"^{name} = .*{told}"):
            check_inputs(check({name: [str(path)] if name.endswith("s") else str(path)}, declared))

    (tmp_path / "file").write_text("no images", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "file", "not a folder")
    refused("/dev/null", "not a folder")
    with pytest.raises(ParameterError, match=rf"^{name}: .* has 0 class folders, at least 2 are needed"):
        check_inputs(check({name: [f"{tmp_path}/empty"] if name.endswith("s") else f"{tmp_path}/empty"}, declared))
    refused(draw_set(tmp_path / "few", NUMBERED[:4]), r"no folder for 00004.* \(4 folders for 10 classes\)")


def test_an_unreadable_image_of_a_set_from_elsewhere_is_named_before_the_run(declared, tmp_path):
    folder = draw_set(tmp_path / "set", NUMBERED, size=64)
    check_inputs(check({"condensed_dir": str(folder)}, declared))
    whole = (folder / "00003/1.png").read_bytes()
    (folder / "00003/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ParameterError, match=r"cannot read image .*00003/1\.png"):
        check_inputs(check({"condensed_dir": str(folder)}, declared))


def test_weights_that_are_none_and_a_place_that_is_no_folder_are_refused_before(declared, tmp_path):
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    with pytest.raises(ParameterError, match=r"^feature_weights = .*garbage\.pth.*weights cannot be loaded"):
        check_inputs(
            check({"feature_network": "squeezenet1_1", "feature_weights": str(tmp_path / "garbage.pth")}, declared)
        )
    with pytest.raises(ParameterError, match=r"condensed_out = '/dev/null': it is there and no folder"):
        check_inputs(check({"condensed_out": "/dev/null"}, declared))


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '{"_class_name": "X", "safety_checker": [null, null]}'])
def test_a_pipeline_without_parts_is_refused(content, declared, tmp_path):
    (tmp_path / "model_index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"^editor = .*: its model_index\.json lists no parts"):
        check_inputs(check({"editor": str(tmp_path)}, declared))


def test_a_part_that_is_missing_in_a_model_is_named(declared, tmp_path):
    shutil.copytree(paths.SHIPPED_EDITOR, tmp_path / "editor", ignore=shutil.ignore_patterns("unet"))
    with pytest.raises(ParameterError, match=r"^editor = .*: it has no unet, which its model_index\.json lists"):
        check_inputs(check({"editor": str(tmp_path / "editor")}, declared))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"^vae = .*: its config\.json is not an autoencoder's"):
        check_inputs(check({"vae": str(tmp_path)}, declared))
