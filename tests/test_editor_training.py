import re

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import nn
from workshop import command

from dc3.generators import tiny_editor
from dc3.generators.tiny_editor import INSTRUCTION, EditorRecipe, PairStream, build_tokenizer, train_editor
from dc3.generators.training_loop import fit
from dc3.machine.keeping import AnotherTraining, kept_folder
from dc3.machine.paths import REPOSITORY
from dc3.models.evaluation import images_digest
from dc3.models.grading import GRADES, grade
from dc3.runs.parameters import read_file

TINY = {
    "sources": [{"dataset": "scenes10", "image_size": 32, "images_per_class": 4}],
    "batch_pixels": 2048,
    "large_share": 0.0,
    "autoencoder_steps": 2,
    "autoencoder_learning_rate": 1e-3,
    "steps": 2,
    "learning_rate": 1e-3,
    "drop": 0.1,
    "save_every": 1,
}


@pytest.fixture(scope="module")
def stream():
    return PairStream(EditorRecipe(**TINY))


def test_every_grade_moves_the_mean_colour_its_own_way_and_keeps_the_lightness_order():
    greys = np.tile(np.linspace(40, 215, 32).astype(np.uint8)[None, None, :, None], (8, 32, 1, 3))
    before = rgb2lab(greys)
    for prompt, target in GRADES.items():
        after = rgb2lab(grade(greys, [prompt] * 8, np.random.default_rng(0)))
        shift = (after - before).mean(axis=(0, 1, 2))
        assert np.dot(shift[1:], [target.a, target.b]) > 0, prompt
        lightness = after[0, 0, :, 0]
        assert np.corrcoef(lightness, before[0, 0, :, 0])[0, 1] > 0.98, prompt


def test_warm_grades_raise_and_cold_grades_lower_b():
    signs = {prompt: np.sign(target.b) for prompt, target in GRADES.items()}
    assert list(signs.values()) == [1] * 5 + [-1] * 5


def test_a_batch_is_a_function_of_seed_and_step(stream):
    one, two = stream.batch(7, "denoising"), stream.batch(7, "denoising")
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and one[2] == two[2]
    assert not torch.equal(one[0], stream.batch(8, "denoising")[0])
    assert one[0].shape == (2, 3, 32, 32) and -1 <= one[1].min() <= one[1].max() <= 1


def test_a_stopped_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path):
    def train(folder, stop_at=None):
        torch.manual_seed(0)
        network = nn.Linear(3, 1)

        def loss_at(step):
            if step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            return (network(x) - x.sum(1, keepdim=True)).pow(2).mean()

        fit(network, loss_at, folder / "linear.pt", steps=12, learning_rate=0.1, warmup=2, save_every=5)
        return network.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop_at=8)
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_a_gpu_goes_on_without_one(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("its tensors would be read to the GPU: tests/test_gpu.py goes on there")

    def train(steps):
        network = nn.Linear(1, 1)
        return fit(network, lambda _: network(torch.ones(1, 1)).sum(), tmp_path / "x.pt", steps=steps, learning_rate=1)

    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        losses = train(2)
    assert train(3)[:2] == losses


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    network = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="loss of step 0"):
        fit(network, lambda _: network(torch.tensor([[torch.nan]])).sum(), tmp_path / "x.pt", steps=2, learning_rate=1)


def test_training_writes_a_pipeline_that_loads_and_resumes_from_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_editor, "build_unet", lambda channels: small_unet(channels))
    train_editor(EditorRecipe(**TINY), tmp_path / "work", tmp_path / "editor", device="cpu")
    from dc3.models.editor import EditorSettings, load_editor
    from dc3.models.evaluation import weights_digest

    first, again = (EditorSettings(str(tmp_path / name), 32, 1, 2, 1.2, 1) for name in ("editor", "again"))
    editor = load_editor(first)
    assert editor.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert editor.pipeline.scheduler.config.rescale_betas_zero_snr
    edited = editor.edit(np.zeros((1, 32, 32, 3), np.uint8), [INSTRUCTION.format(p="sunny")], [0])
    assert np.isfinite(edited).all()
    train_editor(EditorRecipe(**TINY), tmp_path / "work", tmp_path / "again", device="cpu")
    assert weights_digest(*load_editor(again).networks) == weights_digest(*editor.networks)
    other = EditorRecipe(**TINY | {"steps": 3, "seed": 1})
    with pytest.raises(
        AnotherTraining, match=r"work comes from another training \(seed 0 → 1, steps 2 → 3\): remove it.*--work"
    ):
        train_editor(other, tmp_path / "work", tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_the_editor_is_not_trained_on_from_a_folder_of_other_images_or_of_something_else(tmp_path):
    fewer = EditorRecipe(**TINY | {"sources": [{"dataset": "scenes10", "image_size": 32, "images_per_class": 2}]})
    images = {"32": images_digest(PairStream(fewer).pools[32])}
    kept_folder(tmp_path / "work", EditorRecipe(**TINY).model_dump() | {"images": images}, "")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "autoencoder.pt").touch()
    for work, message in (("work", r"another training \(images \{'32'"), ("strange", "no readable key.json")):
        with pytest.raises(AnotherTraining, match=message):
            train_editor(EditorRecipe(**TINY), tmp_path / work, tmp_path / "editor", device="cpu")
    assert [path.name for path in (tmp_path / "strange").iterdir()] == ["autoencoder.pt"], "it is somebody's"


def small_unet(channels):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=tiny_editor.TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def test_the_tokenizer_has_a_word_for_each_word_of_its_instructions_and_letters_for_others():
    tokenizer = build_tokenizer([INSTRUCTION.format(p=prompt) for prompt in GRADES], 32)
    words = INSTRUCTION.format(p="golden hour").split()
    assert len(tokenizer(" ".join(words)).input_ids) == len(words) + 2
    assert tokenizer.decode(tokenizer("an autumn day").input_ids, skip_special_tokens=True) == "an autumn day"


def test_the_committed_recipe_is_complete():
    recipe = EditorRecipe.model_validate(read_file(REPOSITORY / "params/editor/tiny-instruct-pix2pix.yaml"))
    assert {source.dataset for source in recipe.sources} == {"imagefolder", "scenes10"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("learning_rate", ".inf"), ("autoencoder_learning_rate", "2"), ("seed", "-1"), ("steps", "1000000000000")],
        *[("batch_pixels", "0"), ("save_every", "0"), ("seed", "2.5"), ("sources", "[]")],
    ],
)
def test_a_recipe_that_could_not_end_well_is_refused_by_name(tmp_path, key, value):
    recipe = (REPOSITORY / "params/editor/tiny-instruct-pix2pix.yaml").read_text(encoding="utf-8")
    changed = re.sub(rf"^{key}:.*\n(?:  - .*\n)*", "", recipe, flags=re.MULTILINE) + f"{key}: {value}\n"
    (tmp_path / "recipe.yaml").write_text(changed, encoding="utf-8")
    result = command("train-editor", str(tmp_path / "recipe.yaml"), "--work", str(tmp_path / "work"))
    assert result.exit_code == 2 and f"recipe.yaml: {key} = " in result.output and "is not allowed" in result.output
    assert len(result.output.splitlines()) == 1 and not (tmp_path / "work").exists()
