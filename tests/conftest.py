import os

import pytest

from dc3.machine import paths

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker of pytest-xdist a core; torch reads it when it is imported


def pytest_collection_modifyitems(items):
    """What starts processes comes first, so that nothing long is left for one of two workers at the end."""
    items.sort(key=lambda item: item.get_closest_marker("process") is None)


@pytest.fixture(scope="session")
def random_editor_folder(tmp_path_factory):
    """An untrained editor, the shipped one with a much smaller U-Net, saved in diffusers' folder format."""
    import torch
    from diffusers import UNet2DConditionModel

    from dc3.generators import tiny_editor
    from dc3.generators.tiny_editor import INSTRUCTION, TEXT_LENGTH, TEXT_WIDTH
    from dc3.models.grading import GRADES

    torch.manual_seed(0)
    vae = tiny_editor.build_autoencoder()
    tokenizer = tiny_editor.build_tokenizer([INSTRUCTION.format(p=prompt) for prompt in GRADES], TEXT_LENGTH)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    model = torch.nn.ModuleDict({"unet": unet, "text_encoder": tiny_editor.build_text_encoder(tokenizer)})
    folder = tmp_path_factory.mktemp("editor")
    tiny_editor.assemble(vae, model, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_editor(random_editor_folder):
    """That editor, loaded as a user's would be, at two steps and four edits a batch."""
    from dc3.models.editor import EditorSettings, load_editor

    return load_editor(
        EditorSettings(
            str(random_editor_folder), size=32, steps=2, guidance_scale=2.0, image_guidance_scale=1.2, batch_size=4
        )
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of its own for runs and figures."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FEATURES", tmp_path / "runs/.features")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paths, "HOME", tmp_path)
    return tmp_path
