"""dc3 export: what the libraries that people use read back is what the run made."""

import json

import numpy as np
import pandas as pd
import pytest
from finished_runs import CLASSES, FOLDER_OF_THE_MACHINE, IPC, SIZE, image_set, make_run, record
from huggingface_hub import DatasetCard
from mistune import create_markdown
from PIL import Image
from typer.testing import CliRunner

from dc3 import cli, compensation, condensed
from dc3.condensed import history
from dc3.machine import files
from dc3.models import checkpoints, evaluation
from dc3.rded import Crops, pick_crops
from dc3.runs.export import FILL_IN, card, class_folders

N = len(CLASSES) * IPC
LABELS = np.repeat(np.arange(len(CLASSES)), IPC)


@pytest.fixture
def run(home):
    return make_run("toy", until="04")


@pytest.fixture
def pixels(run):
    return condensed.load(run / "04_compensation/condensed", CLASSES).images()


@pytest.fixture
def answers(run, pixels):
    return evaluation.predict(checkpoints.load(run / "00_teacher/teacher.safetensors").model, pixels).numpy()


def export(*arguments):
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


def exported(*arguments):
    result = export(*arguments)
    assert result.exit_code == 0, result.output
    return result


def imagefolder(folder, home, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(home / "modules"))
    datasets.disable_progress_bars()
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(home / "cache"))


def test_datasets_reads_images_labels_and_provenance(run, pixels, home, monkeypatch):
    assert "runs/toy/export-hf" in exported("toy", "--to", "hf").output
    data = imagefolder(run / "export-hf", home, monkeypatch)
    assert (np.stack([np.asarray(image) for image in data["image"]]) == pixels).all()
    assert data["label"][:] == LABELS.tolist() and data["class"][:] == [CLASSES[label] for label in LABELS]
    table = pd.read_parquet(run / "04_compensation/condensed/provenance.parquet")
    for column in ("index", "source", "source_sha256", "rank", "sha256"):
        assert data[column][:] == table[column].tolist(), column
    image = run / "export-hf/train/cat/00000.png"
    assert files.sha256(image) == data["sha256"][0] and history(image)["index"] == data["index"][0]


def test_the_folder_itself_gives_labels_with_names(run, pixels, home):
    import datasets

    exported("toy", "--to", "hf", "--soft-labels")
    whole = datasets.load_dataset(str(run / "export-hf"), cache_dir=str(home / "cache"))
    assert list(whole) == ["train"]
    data = whole["train"]
    assert data.features["label"].names == list(CLASSES)
    assert data.features["label"].int2str(data["label"][2]) == data["class"][2] == "dog"
    assert (np.stack([np.asarray(image) for image in data["image"]]) == pixels).all()
    table = pd.read_parquet(run / "04_compensation/condensed/provenance.parquet")
    assert set(table.columns) - {"file"} <= set(data.column_names) and "teacher_logits" in data.column_names
    card = DatasetCard.load(run / "export-hf/README.md")
    assert card.data.size_categories == ["n<1K"] and "made by DC3 picks, plain" in card.text


def test_soft_labels_are_the_teachers_logits_in_every_format(run, answers, home, monkeypatch):
    for to in ("hf", "npz"):
        exported("toy", "--to", to, "--soft-labels")
        assert "softmax(logits / 20)" in (run / f"export-{to}/README.md").read_text(encoding="utf-8")
    data = imagefolder(run / "export-hf", home, monkeypatch)
    assert (np.array(data["teacher_logits"][:], np.float32) == answers).all()
    with np.load(run / "export-npz/condensed.npz") as arrays:
        assert arrays["teacher_logits"].dtype == np.float32 and (arrays["teacher_logits"] == answers).all()


def test_npz_holds_arrays_names_and_provenance_without_pickles(run, pixels):
    exported("toy", "--to", "npz")
    with np.load(run / "export-npz/condensed.npz", allow_pickle=False) as data:
        assert data["images"].dtype == np.uint8 and (data["images"] == pixels).all()
        assert data["labels"].dtype == np.int64 and data["labels"].tolist() == LABELS.tolist()
        assert tuple(data["class_names"]) == CLASSES and data["sources"][0] == image_set().source(0)
        facts = json.loads(str(data["provenance"]))
    assert facts["method"] == "dc3_plain" and facts["images_per_class"] == IPC and facts["soft_labels"] is None
    assert facts == json.loads((run / "export-npz/provenance.json").read_text(encoding="utf-8"))


def test_no_folder_of_the_machine_is_passed_on_and_licences_are_asked_for(home):
    folder = make_run("toy", until="04", data_dir=FOLDER_OF_THE_MACHINE)
    settings = folder / "00_teacher/settings.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["load"] |= {"dataset": "imagefolder", "data_dir": FOLDER_OF_THE_MACHINE}
    settings.write_text(json.dumps(content), encoding="utf-8")
    record(folder / "00_teacher")
    exported("toy", "--to", "hf")
    texts = [
        path.read_text(encoding="utf-8")
        for path in (folder / "export-hf").rglob("*")
        if path.suffix in (".md", ".json", ".jsonl")
    ]
    assert len(texts) == 3 and not any("somebody" in text for text in texts)
    text = next(text for text in texts if text.startswith("---"))
    assert "license: unknown" in text and FILL_IN in text and "pets, condensed to 2" in text


def test_an_editor_from_a_folder_of_the_machine_is_named_without_it_in_the_pngs_too(run, pixels, home, monkeypatch):
    table_path = run / "04_compensation/condensed/provenance.parquet"
    pd.read_parquet(table_path).assign(editor="/home/somebody/models/pix2pix", editor_sha256="0").to_parquet(table_path)
    record(run / "04_compensation")
    exported("toy", "--to", "hf")
    data = imagefolder(run / "export-hf", home, monkeypatch)
    assert set(data["editor"]) == {"…/pix2pix"} and "sha256" not in data.features
    assert (np.stack([np.asarray(image) for image in data["image"]]) == pixels).all()
    with Image.open(run / "export-hf/train/cat/00000.png") as image:
        image.load()
        assert not image.text


def test_mosaics_of_many_sources_say_which_they_are(run, home, monkeypatch):
    import datasets

    images, model = image_set(), checkpoints.load(run / "00_teacher/teacher.safetensors").model
    picks = pick_crops(images, model, IPC, 0, Crops(factor=2, num_crop=2, mipc=9))
    compensation.tile(images, picks, run / "04_compensation/condensed", condensed.Storage(SIZE))
    record(run / "04_compensation")
    exported("toy", "--to", "hf")
    data = imagefolder(run / "export-hf", home, monkeypatch)
    named = datasets.load_dataset(str(run / "export-hf"), split="train", cache_dir=str(home / "cache"))
    assert named.features["label"].names == list(CLASSES) and named["tiles"][:] == data["tiles"][:]
    first = picks[(picks["label"] == 0) & (picks["rank"] == 0)].sort_values("tile")
    assert data["tiles"][0]["index"] == first["index"].tolist() and data["tiles"][0]["top"] == first["top"].tolist()


@pytest.mark.parametrize(
    ("dataset", "editor", "stated"),
    [
        ("scenes10", "tiny-instruct-pix2pix", ["license: other", "danielbuechele", "part of DC3 (MIT licence)"]),
        (
            "cifar10",
            "timbrooks/instruct-pix2pix",
            ["license: unknown", "https://www.cs.toronto.edu/~kriz/cifar.html", "Its model card says"],
        ),
    ],
)
def test_licences_are_those_of_the_source_images_and_the_editor(run, dataset, editor, stated):
    exported("toy", "--to", "npz")
    facts = json.loads((run / "export-npz/provenance.json").read_text(encoding="utf-8"))
    facts["source_data_set"]["dataset"] = dataset
    text = str(card(facts | {"edits": True, "editor": editor}, "npz"))
    assert all(part in text for part in stated)


def test_an_export_is_complete_or_absent_and_replaces_nobodys_folder(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dc3.runs.export.card", full)
        result = export("toy", "--to", "hf")
    assert result.exit_code == 2 and "No space left" in result.output
    assert not [path for path in run.iterdir() if "export" in path.name]
    (run / "export-hf").mkdir()
    result = export("toy", "--to", "hf")
    assert result.exit_code == 2 and "already exists: remove it, or choose another folder" in result.output
    exported("toy", "--to", "hf", "--out", run / "elsewhere")


def test_what_cannot_be_exported_is_refused_by_name(run, home):
    make_run("young", until="03")
    spoilt = run / "04_compensation/condensed/00001/00000.png"
    Image.new("RGB", (SIZE, SIZE)).save(spoilt)
    for arguments, said in [
        (("toy", "--to", "zip"), "--to = 'zip': expected one of hf, npz"),
        (("nobody", "--to", "hf"), "RUN = 'nobody': no such run"),
        (("young", "--to", "hf"), "RUN = 'young' has no finished 04_compensation"),
        (("toy", "--to", "hf"), "has changed since 04_compensation wrote it (00001/00000.png)"),
    ]:
        result = export(*arguments)
        assert result.exit_code == 2 and said in result.output


def test_a_set_whose_teacher_is_being_made_again_is_not_exported(run):
    (run / "00_teacher/manifest.json").unlink()
    result = export("toy", "--to", "hf")
    assert result.exit_code == 2 and "RUN = 'toy' has no finished 00_teacher" in result.output


def with_classes(run, classes):
    """The run, whose classes have other names."""
    settings = run / "00_teacher/settings.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text(encoding="utf-8")) | {"classes": classes}), encoding="utf-8"
    )
    record(run / "00_teacher")


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "..", r"back\slash", ".hidden", "a:b", "con", "x" * 200, "dog", "[ab]*"]
)
def test_no_class_name_leads_out_of_the_exported_folder_and_the_real_one_is_the_label(run, pixels, home, name):
    import datasets

    with_classes(run, [name, "Dog" if name == "dog" else "dog", "owl"])
    before = {path for path in home.rglob("*") if "export-hf" not in path.parts}
    exported("toy", "--to", "hf", "--out", home / "out/export-hf")
    assert {path for path in home.rglob("*") if "export-hf" not in path.parts} == before | {home / "out"}
    data = datasets.load_dataset(str(home / "out/export-hf"), split="train", cache_dir=str(home.parent / "cache"))
    assert data.features["label"].names[0] == name == data["class"][0]
    assert (np.stack([np.asarray(image) for image in data["image"]]) == pixels).all()
    text = (home / "out/export-hf/README.md").read_text(encoding="utf-8")
    assert repr(name) in text and "The folders are the labels' numbers" in text


def test_a_name_of_earlier_settings_in_another_form_of_unicode_is_composed(run, home):
    import datasets

    with_classes(run, ["cafe\u0301", "dog", "owl"])
    exported("toy", "--to", "hf", "--out", home / "out")
    data = datasets.load_dataset(str(home / "out"), split="train", cache_dir=str(home.parent / "cache"))
    assert data.features["label"].names[0] == "caf\xe9" == data["class"][0]
    assert (home / "out/train/caf\xe9").is_dir()


def test_ordinary_names_are_the_folders():
    assert class_folders(["cat", "golden retriever", "Žluťoučký kůň", "n01440764", "猫"])[1:3] == [
        "golden retriever", "Žluťoučký kůň"]  # fmt: skip
    assert class_folders(["cat", "CAT"]) == ["00000", "00001"]


def test_settings_that_00_did_not_write_are_refused(run, home):
    settings = run / "00_teacher/settings.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace('"cat"', '"../../x"'), encoding="utf-8")
    result = export("toy", "--to", "hf")
    assert result.exit_code == 2 and "settings.json is not what 00_teacher wrote" in result.output
    assert not (run / "export-hf").exists()


def test_a_card_shows_names_and_parameters_literally(run):
    exported("toy", "--to", "npz")
    facts = json.loads((run / "export-npz/provenance.json").read_text(encoding="utf-8"))
    facts["source_data_set"] |= {"dataset": "imagefolder", "data_dir": "…/$1|<b>"}
    facts["parameters"]["instruction"] = "a\n\n  ```\n# not a heading\n"
    text = str(card(facts | {"classes": ["```", "$x$", "a|b"]}, "hf"))
    assert r"| imagefolder …/\$1\|\<b\> |" in text and "# not a heading" in text
    html = create_markdown(plugins=["table"])(text.split("---", 2)[2])
    assert "<h1>not a heading" not in html and html.count("<h1>") == 1
