import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dc3.generators.tiny_editor import build_tokenizer
from dc3.machine import devices
from dc3.models.editor import EditorSettings, load_editor
from dc3.models.evaluation import weights_digest

PROMPTS = ["make it warm", "make it cold", "make it warm", "sepia", "snowy"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_an_edit_is_the_same_in_any_order_and_company(random_editor, images):
    seeds = [10, 11, 12, 13, 14]
    together = random_editor.edit(images, PROMPTS, seeds)
    order = [3, 0, 4, 2, 1]
    shuffled = random_editor.edit(images[order], [PROMPTS[k] for k in order], [seeds[k] for k in order])
    assert (shuffled == together[order]).all()
    assert (random_editor.edit(images[2:3], PROMPTS[2:3], seeds[2:3]) == together[2:3]).all()


def test_seed_and_instruction_change_the_edit(random_editor, images):
    one = [images[:1], PROMPTS[:1], [1]]
    base = random_editor.edit(*one)
    assert np.abs(random_editor.edit(images[:1], PROMPTS[:1], [2]) - base).max() > 0
    assert np.abs(random_editor.edit(images[:1], PROMPTS[1:2], [1]) - base).max() > 0
    assert base.shape == (1, 32, 32, 3) and 0 <= base.min() <= base.max() <= 1


def test_a_pipeline_of_the_real_checkpoints_components_runs_at_another_size(tmp_path, images):
    """CLIP text encoder and tokenizer, 4-channel AutoencoderKL of 8x, 8-channel U-Net: scaled down, saved, loaded."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["make it warm"], 77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    four = (8, 16, 16, 16)
    vae = AutoencoderKL(
        block_out_channels=four,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
    )
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=four, norm_num_groups=4, cross_attention_dim=32,
        attention_head_dim=4, sample_size=8,
    )  # fmt: skip
    StableDiffusionInstructPix2PixPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, PNDMScheduler(), None, None, requires_safety_checker=False
    ).save_pretrained(tmp_path)
    used = EditorSettings(str(tmp_path), size=64, steps=3, guidance_scale=4, image_guidance_scale=1.5, batch_size=2)
    editor = load_editor(used)
    edited = editor.edit(images[:3], PROMPTS[:3], [0, 1, 2])
    assert type(editor.pipeline.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert edited.shape == (3, 32, 32, 3) and np.isfinite(edited).all()


def test_several_edits_of_one_image_encode_it_once(random_editor, images, monkeypatch):
    encoded, encode = [], random_editor.pipeline.vae.encode
    monkeypatch.setattr(random_editor.pipeline.vae, "encode", lambda x: encoded.append(len(x)) or encode(x))
    varied = random_editor.variations(images[0], PROMPTS, [1, 2, 3, 4, 5])
    assert len(encoded) == 1, "one padded batch"
    assert (varied == random_editor.edit(images[:1].repeat(5, 0), PROMPTS, [1, 2, 3, 4, 5])).all()


def test_half_precision_edits_hardly_differ(random_editor, images):
    half = load_editor(replace(random_editor.settings, precision="bfloat16"))
    assert half.precision == "bfloat16" and random_editor.precision == "float32"
    assert weights_digest(*half.networks) != weights_digest(*random_editor.networks)
    difference = np.abs(half.edit(images, PROMPTS, range(5)) - random_editor.edit(images, PROMPTS, range(5)))
    assert 0 < difference.mean() < 0.02


def test_other_weights_have_another_hash(random_editor):
    again = load_editor(replace(random_editor.settings, steps=1))
    assert weights_digest(*again.networks) == weights_digest(*random_editor.networks)
    with torch.no_grad():
        next(again.pipeline.unet.parameters()).add_(1e-3)
    assert weights_digest(*again.networks) != weights_digest(*random_editor.networks)


def test_a_missing_editor_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"editor = .*nowhere.*tiny-instruct-pix2pix"):
        load_editor(EditorSettings(str(tmp_path / "nowhere"), 32, 1, 1, 1, 1))


def test_lists_of_different_lengths_are_refused(random_editor, images):
    with pytest.raises(ValueError, match="5 images, 2 instructions"):
        random_editor.edit(images, PROMPTS[:2], [0] * 5)


def test_settings_come_from_the_parameters_and_change_without_loading_again(random_editor):
    params = {"editor": "hub/id", "edit_size": 64, "edit_steps": 7, "guidance_scale": 4.0, "image_guidance_scale": 1.5}
    params |= {"edit_batch_size": 3, "editor_revision": "v1", "edit_precision": "float16", "edit_compile": True}
    params |= {"sampler": "unipc", "guidance_from": 0.1, "guidance_until": 0.5}
    expected = EditorSettings("hub/id", 64, 7, 4.0, 1.5, 3, "v1", "float16", True, "unipc", 0.1, 0.5)
    assert EditorSettings.of(params) == expected
    other = random_editor.using(batch_size=1)
    assert other.settings.batch_size == 1 and random_editor.settings.batch_size == 4
    assert other.pipeline is random_editor.pipeline


def rows_of_passes(editor, images, monkeypatch, **changes):
    """The edits, and how many rows the U-Net saw in each step."""
    rows, forward = [], editor.pipeline.unet.forward
    with monkeypatch.context() as patch:
        patch.setattr(editor.pipeline.unet, "forward", lambda x, *a, **k: rows.append(len(x)) or forward(x, *a, **k))
        return editor.using(**changes).edit(images[:4], PROMPTS[:4], range(4)), rows


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize(
    ("start", "until", "rows"),
    [(0.0, 1.0, [12] * 5), (0.0, 0.4, [12, 12, 4, 4, 4]), (0.4, 0.8, [4, 4, 12, 12, 4]), (0.0, 0.0, [4] * 5)],
)
def test_unguided_steps_pass_a_third_of_the_rows(random_editor, images, monkeypatch, sampler, start, until, rows):
    changes = {"sampler": sampler, "steps": 5, "guidance_from": start, "guidance_until": until}
    edited, seen = rows_of_passes(random_editor, images, monkeypatch, **changes)
    assert seen == rows and np.isfinite(edited).all()
    assert sum(rows) == 4 * random_editor.using(**changes).settings.guided_steps.passes(5)


@pytest.mark.parametrize("until", [0.5, 1.0])
def test_an_interval_is_guidance_of_one_outside_it(random_editor, images, monkeypatch, until):
    """The oracle predicts with all three branches in every step and mixes them by the scales of the step."""
    settings = {"steps": 4, "guidance_until": until, "guidance_scale": 3.0}
    found, _ = rows_of_passes(random_editor, images, monkeypatch, **settings)
    pipeline, scale = random_editor.pipeline, {}

    def weigh(_pipeline, step, _time, tensors):
        scale["now"] = step + 1 < round(4 * until)
        pipeline._guidance_scale = 3.0 if scale["now"] else 1.0 + 1e-6
        pipeline._image_guidance_scale = 1.2 if scale["now"] else 1.0
        return tensors

    call = type(pipeline).__call__
    monkeypatch.setattr(
        type(pipeline), "__call__", lambda self, **options: call(self, **options | {"callback_on_step_end": weigh})
    )
    expected = random_editor.using(steps=4, guidance_scale=3.0).edit(images[:4], PROMPTS[:4], range(4))
    assert np.abs(found - expected).max() < 1e-4
    whole = random_editor.using(steps=4, guidance_scale=3.0, guidance_until=1.0)
    monkeypatch.setattr(type(pipeline), "__call__", call)
    differs = np.abs(found - whole.edit(images[:4], PROMPTS[:4], range(4))).max() > 1e-3
    assert differs == (until < 1)


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "unipc"])
def test_with_every_sampler_an_edit_depends_on_itself_alone(random_editor, images, sampler):
    editor = random_editor.using(sampler=sampler, steps=3, guidance_until=0.7)
    together = editor.edit(images, PROMPTS, range(5))
    random_editor.edit(images[:1], PROMPTS[:1], [9])  # with another sampler of the same pipeline
    assert (editor.edit(images[3:4], PROMPTS[3:4], [3]) == together[3:4]).all()
    assert np.abs(editor.edit(images[3:4], PROMPTS[3:4], [4]) - together[3:4]).max() > 0


def test_samplers_keep_the_noise_schedule_of_the_editor(random_editor):
    for sampler in ("dpmpp_2m", "unipc", "euler_a"):
        config = random_editor.using(sampler=sampler).scheduler().config
        assert config.prediction_type == "v_prediction" and config.rescale_betas_zero_snr
        assert (config.beta_schedule, config.timestep_spacing) == ("scaled_linear", "trailing")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sampler": "ddim"}, "sampler = 'ddim': choose one of euler_a, dpmpp_2m, unipc"),
        ({"steps": 0}, "edit_steps = 0: at least 1"),
        ({"guidance_until": 1.5}, r"guidance_until = 1\.5: .* from 0 to 1"),
        ({"guidance_from": 0.5, "guidance_until": 0.4}, r"guidance_from = 0\.5: .*guidance_until = 0\.4"),
    ],
)
def test_bad_settings_are_refused_by_name(random_editor, changes, told):
    with pytest.raises(ValueError, match=told):
        random_editor.using(**changes)


def test_bfloat16_is_only_used_where_asked_for_and_slow_bfloat16_warns(random_editor, monkeypatch):
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load_editor(replace(random_editor.settings, precision="auto")).precision == "float32"
    with pytest.warns(UserWarning, match="edit_precision = 'bfloat16'.*no instructions.*float32"):
        load_editor(replace(random_editor.settings, precision="bfloat16"))
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_editor(replace(random_editor.settings, precision="bfloat16"))
