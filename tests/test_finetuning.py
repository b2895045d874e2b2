from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from dc3.generators import finetuning
from dc3.generators import study as generation_study
from dc3.generators.dit import NULL_CLASS, load_dit, new_dit
from dc3.generators.finetuning import NO_CLASS, DenoisingLoss, draw_batch, encode, generate, train
from dc3.generators.lora import load_lora_base
from dc3.generators.recipes import DiTShape, FinetuneRecipe, LoRASettings, Sampling
from dc3.generators.tiny_editor import build_tokenizer
from dc3.images.image_set import in_memory
from dc3.machine import paths
from dc3.models.checkpoints import Teacher
from dc3.models.feature_networks import classifier_network
from dc3.runs.checks import check_inputs
from dc3.runs.parameters import ParameterError, all_declared, check

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
SHAPE = DiTShape(width=16, depth=2, heads=2, patch=4)
RECIPE = FinetuneRecipe(steps=6, batch_size=4, learning_rate=1e-3, seed=0, save_every=2)
SAMPLING = Sampling(per_class=1, steps=2, guidance=2.0, batch_size=4, image_size=32)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    return in_memory("noise", "train", CLASSES, np.repeat([0, 1, 2], 3), pixels)


@pytest.fixture(scope="module")
def vae(random_editor_folder):
    return AutoencoderKL.from_pretrained(random_editor_folder, subfolder="vae").requires_grad_(False)


@pytest.fixture(scope="module")
def stable_diffusion_folder(tmp_path_factory):
    """A StableDiffusionPipeline of the real checkpoint's component classes, scaled down, with random weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a photo of a red green blue"], 77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    four = (8, 8, 8, 8)
    vae = AutoencoderKL(
        block_out_channels=four,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    unet = UNet2DConditionModel(
        block_out_channels=four, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2, sample_size=8,
        layers_per_block=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("stable_diffusion")
    StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, DDIMScheduler(), None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


def lora_of(folder, template="a photo of a {class}", targets=("to_q", "to_v"), **options):
    settings = LoRASettings(template, 2, targets)
    return load_lora_base(str(folder), CLASSES, settings, CPU, **options)


def weights(generator):
    return [parameter.detach().clone() for parameter in generator.trained]


def make(kind, vae, editor, stable_diffusion):
    return {
        "dit": lambda: new_dit(vae, 3, 32, SHAPE, CPU, seed=0),
        "tiny": lambda: lora_of(editor),
        "stable_diffusion": lambda: lora_of(stable_diffusion),
    }[kind]


@pytest.fixture(params=["dit", "tiny", "stable_diffusion"])
def maker(request, vae, random_editor_folder, stable_diffusion_folder):
    return make(request.param, vae, random_editor_folder, stable_diffusion_folder)


def test_trained_weights_load_as_diffusers_loads_them_and_make_the_same_images(maker, images, tmp_path):
    generator = maker()
    untrained, _ = generate(generator, SAMPLING, 0)
    train(generator, encode(generator, images, RECIPE, tmp_path), RECIPE, tmp_path / "weights")
    trained, labels = generate(generator, SAMPLING, 0)
    assert trained.shape == (3, 32, 32, 3) and labels.tolist() == [0, 1, 2]
    assert (trained != untrained).any()
    fresh = maker()
    if fresh.name == "LoRA":
        fresh.unet.delete_adapters("default")
        fresh.pipeline.load_lora_weights(tmp_path / "weights")
    else:
        fresh = type(fresh)(DiTPipeline.from_pretrained(tmp_path / "weights"), range(3), CPU)
    again, _ = generate(fresh, SAMPLING, 0)
    assert (again == trained).all()


@pytest.mark.parametrize("kind", ["dit", "tiny"])
def test_a_stopped_training_ends_in_the_bytes_of_an_undisturbed_one(
    kind, vae, random_editor_folder, images, tmp_path, monkeypatch
):
    maker = make(kind, vae, random_editor_folder, None)
    recipe = replace(RECIPE, accumulate=2)

    def stopping(self, part, undisturbed=DenoisingLoss.__call__):
        if part == 9:
            raise KeyboardInterrupt
        return undisturbed(self, part)

    def run(folder):
        generator = maker()
        return train(generator, encode(generator, images, recipe, tmp_path / "latents"), recipe, tmp_path / folder)

    losses = run("whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DenoisingLoss, "__call__", stopping)
        run("stopped")
    assert (run("stopped") == losses).all() and len(losses) == recipe.steps
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert files and not any(path.suffix == ".pt" for path in files)
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file


def test_a_finished_training_is_loaded_and_one_of_another_set_is_not(vae, images, tmp_path, monkeypatch):
    def run(own):
        generator = new_dit(vae, 3, 32, SHAPE, CPU, seed=0)
        train(generator, encode(generator, own, RECIPE, tmp_path / "latents"), RECIPE, tmp_path / "weights")
        return weights(generator)

    first = run(images)
    other = run(images.take([0, 3, 6]))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    monkeypatch.setattr(finetuning, "fit", None)
    assert all((a == b).all() for a, b in zip(other, run(images.take([0, 3, 6])), strict=True))


def test_sets_of_any_size_see_the_same_noise_and_drop_out_at_a_step():
    small, large = (draw_batch(RECIPE, 5, count) for count in (7, 50_000))
    assert small.noise_seed == large.noise_seed and (small.dropped == large.dropped).all()
    assert (small.keys % 2 == large.keys % 2).all() and small.images.max() < 7 < large.images.max()
    assert draw_batch(RECIPE, 6, 7).noise_seed != small.noise_seed


def test_every_class_and_its_absence_is_told_to_the_model_as_such(vae):
    generator = new_dit(vae, 3, 32, SHAPE, CPU, seed=0)
    seen = []
    generator.transformer.register_forward_pre_hook(
        lambda _, inputs, named: seen.append(named["class_labels"]), with_kwargs=True
    )
    generator.predict(torch.zeros(2, 4, 16, 16), torch.zeros(2), torch.tensor([2, NO_CLASS]))
    assert seen[0].tolist() == [2, NULL_CLASS]


def test_accumulated_batches_are_averaged(vae, images, tmp_path):
    generator = new_dit(vae, 3, 32, SHAPE, CPU, seed=0)
    recipe = replace(RECIPE, accumulate=2, steps=1)
    loss = DenoisingLoss(generator, encode(generator, images, recipe, tmp_path), recipe)
    expected = (loss(0).item() + loss(1).item()) / 2
    assert draw_batch(recipe, 0, 9).noise_seed != draw_batch(recipe, 1, 9).noise_seed
    assert train(generator, loss.latents, recipe, tmp_path / "w") == pytest.approx(expected, rel=1e-5)


def test_gradient_checkpointing_changes_no_gradient(vae, random_editor_folder, images, tmp_path):
    for build in (
        lambda **o: new_dit(vae, 3, 32, SHAPE, CPU, seed=0, **o),
        lambda **o: lora_of(random_editor_folder, **o),
    ):
        gradients = []
        for checkpointing in (False, True):
            generator = build(checkpointing=checkpointing)
            DenoisingLoss(generator, encode(generator, images, RECIPE, tmp_path), RECIPE)(0).backward()
            gradients.append([p.grad for p in generator.trained if p.grad is not None])
        assert len(gradients[0]) and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_bfloat16_as_on_a_gpu_trains_and_generates(stable_diffusion_folder, images, tmp_path):
    generator = lora_of(stable_diffusion_folder, dtype=torch.bfloat16)
    recipe = replace(RECIPE, amp=True, steps=1)
    assert (
        all(p.dtype == torch.float32 for p in generator.trained)
        and generator.unet.conv_in.weight.dtype != torch.float32
    )
    losses = train(generator, encode(generator, images, recipe, tmp_path), recipe, tmp_path / "weights")
    made, _ = generate(generator, SAMPLING, 0, amp=True)
    assert np.isfinite(losses).all() and made.std() > 0


def test_an_image_does_not_depend_on_its_company(maker):
    generator = maker()
    generator_of_two, _ = generate(generator, replace(SAMPLING, per_class=2), 7)
    one, _ = generate(generator, SAMPLING, 7)
    difference = generator_of_two[::2].astype(int) - one
    assert np.abs(difference).max() <= 1
    other, _ = generate(generator, SAMPLING, 8)
    assert (other != one).any()


def test_the_loss_falls_on_one_image(vae, images, tmp_path):
    generator = new_dit(vae, 3, 32, replace(SHAPE, width=32), CPU, seed=0)
    recipe = FinetuneRecipe(steps=60, batch_size=8, learning_rate=3e-3, seed=0)
    losses = train(generator, encode(generator, images.take([0]), recipe, tmp_path), recipe, tmp_path / "w")
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()


def test_latents_are_the_posterior_means_of_the_drawn_images_and_mirror_images(vae, images, tmp_path):
    latents = encode(new_dit(vae, 3, 32, SHAPE, CPU, seed=0), images, RECIPE, tmp_path)
    assert {0, 1} == set(latents.keys % 2) and len(latents.keys) == len(set(latents.keys)) <= 2 * len(images)
    for key, mean in zip(latents.keys, latents.means, strict=True):
        pixels = torch.from_numpy(images.images([key // 2])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            expected = vae.encode(pixels.flip(3) if key % 2 else pixels).latent_dist.mode()[0]
        assert (torch.tensor(mean).float() - expected).abs().max() < 1e-2


def test_a_checkpoint_is_fine_tuned_with_classes_of_its_own_numbers(vae, images, tmp_path):
    new_dit(vae, 3, 32, SHAPE, CPU, seed=0).save(tmp_path / "base")
    generator = load_dit(str(tmp_path / "base"), 3, CPU, rows=[217, 482, 0])
    assert generator.rows.tolist() == [217, 482, 0, NULL_CLASS]
    train(generator, encode(generator, images, RECIPE, tmp_path), RECIPE, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"dit_rows = \[1, 2\]: expected 3 different numbers below 1000"):
        load_dit(str(tmp_path / "base"), 3, CPU, rows=[1, 2])


def test_a_study_scores_every_generator_set_and_seed_and_goes_on_where_it_was(vae, images, tmp_path, monkeypatch):
    def study():
        plan = generation_study.Plan(
            lambda seed: new_dit(vae, 3, 32, SHAPE, CPU, seed=seed),
            replace(RECIPE, steps=2),
            replace(SAMPLING, per_class=2, guidance=1.0),
        )
        sets = {"full set": images, "one a class": images.take([0, 3, 6])}
        return list(generation_study.compare({"DiT": plan}, sets, [0, 1], tmp_path))

    outcomes = study()
    assert [(o.set, o.seed) for o in outcomes] == [(s, k) for s in ("full set", "one a class") for k in (0, 1)]
    monkeypatch.setattr(finetuning, "fit", None)
    monkeypatch.setattr(generation_study, "generate", None)
    again = study()
    assert all(
        (a.images == b.images).all() and (a.losses == b.losses).all() for a, b in zip(outcomes, again, strict=True)
    )
    history = generation_study.loss_history(outcomes)
    assert len(history) == 8 and len(generation_study.final_losses(history)) == 2
    table = pd.DataFrame({"generator": "DiT", "set": ["a", "a"], "seed": [0, 1], "images": 6, "FID": [1.0, 3.0]})
    assert generation_study.summary(table)[["FID", "FID std"]].round(3).values.tolist() == [[2.0, 1.414]]


class Watched(nn.Sequential):
    """A classifier that notes the precisions it is asked in."""

    def forward(self, x):
        self.asked.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return super().forward(x)


@pytest.mark.parametrize(("amp", "asked"), [(None, []), (False, []), (True, [torch.bfloat16])], ids=str)
def test_generated_images_are_classified_in_the_precision_that_is_asked_for(images, amp, asked):
    model = Watched(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 3))
    model.asked = set()
    real = generation_study.real_outcome(images, 2, 0)
    network = classifier_network(model, "teacher")
    table = generation_study.scores([real], images, network, Teacher(model, "conv3", list(CLASSES), 32), 0, amp=amp)
    assert 0 <= table["taken for its class"].item() <= 1
    assert model.asked == {torch.float32, *asked}, "features are always float32"


def test_bad_sets_are_refused_by_name(vae, images, tmp_path):
    generator = new_dit(vae, 2, 32, SHAPE, CPU, seed=0)
    with pytest.raises(ValueError, match="noise has labels up to 2, DiT has 2 classes"):
        encode(generator, images, RECIPE, tmp_path)
    with pytest.raises(ValueError, match="noise has no images"):
        encode(generator, images.take([]), RECIPE, tmp_path)


def test_bad_models_are_refused_by_parameter(vae, random_editor_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lora_base = '.*nowhere' cannot be loaded"):
        lora_of(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"dit_base = '.*nowhere' cannot be loaded"):
        load_dit(str(tmp_path / "nowhere"), 3, CPU)
    with pytest.raises(ValueError, match=r"lora_targets = \['to_z'\]"):
        lora_of(random_editor_folder, targets=["to_z"])
    with pytest.raises(ValueError, match=r"prompt_template = 'a photo': has no \{class\}"):
        lora_of(random_editor_folder, template="a photo")
    with pytest.raises(ValueError, match=r"are the same to the model, which reads 32 tokens"):
        lora_of(random_editor_folder, template="x" * 40 + " {class}")
    with pytest.raises(ValueError, match="dit_heads = 3: choose a divisor of dit_width = 16"):
        replace(SHAPE, heads=3)
    with pytest.raises(ValueError, match="dit_patch = 3"):
        new_dit(vae, 3, 32, replace(SHAPE, patch=3), CPU, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_base": "./missing"}, r"lora_base = './missing': nothing there"),
        ({"dit_base": "./missing"}, r"dit_base = './missing': nothing there"),
        ({"prompt_template": "a photo"}, r"prompt_template = 'a photo': has no \{class\}"),
        ({"class_names": ["cat"]}, r"class_names = \['cat'\]: 1 names for 10 classes"),
        ({"dit_heads": 5}, "dit_heads = 5: choose a divisor of dit_width = 64"),
        (
            {"finetune_beside": ["rded"], "compared": ["random"]},
            r"finetune_beside = \['rded'\]: add rded to compared",
        ),
    ],
)
def test_a_run_that_could_not_fine_tune_is_refused_before_it_starts(values, message):
    with pytest.raises(ParameterError, match=message):
        check_inputs(check(values, all_declared()))


def test_the_shipped_editor_generates_without_a_source():
    generator = lora_of(paths.SHIPPED_EDITOR.name, targets=["to_v"])
    made, _ = generate(generator, Sampling(per_class=1, steps=1, guidance=1.0, batch_size=3, image_size=16), 0)
    assert generator.size == 32 and made.shape == (3, 16, 16, 3)
