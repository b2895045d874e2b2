import json

from dc3.runs.notebook_stage import load_split, read_settings


def test_images_per_class_thins_out_the_training_images_only():
    load = {"dataset": "scenes10", "data_dir": ""}
    few, all_of_them = load | {"images_per_class": 3}, load | {"images_per_class": 0}
    assert load_split("train", few).counts().tolist() == [3] * 10
    assert (load_split("train", all_of_them).counts() > 3).all()
    assert load_split("test", few).fingerprint() == load_split("test", all_of_them).fingerprint()


def test_class_names_of_earlier_settings_are_in_one_form_of_unicode(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"classes": ["cafe\u0301", "the"]}), encoding="utf-8")
    assert read_settings(tmp_path / "settings.json") == {"classes": ["caf\xe9", "the"]}
