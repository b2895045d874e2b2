from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dc3.generators.tiny_editor import build_tokenizer
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
    assert EditorSettings.of(params) == EditorSettings("hub/id", 64, 7, 4.0, 1.5, 3, "v1", "float16", True)
    other = random_editor.using(batch_size=1)
    assert other.settings.batch_size == 1 and random_editor.settings.batch_size == 4
    assert other.pipeline is random_editor.pipeline
