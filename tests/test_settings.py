from dc3.runs.notebook_stage import load_split


def test_images_per_class_thins_out_the_training_images_only():
    load = {"dataset": "scenes10", "data_dir": ""}
    few, all_of_them = load | {"images_per_class": 3}, load | {"images_per_class": 0}
    assert load_split("train", few).counts().tolist() == [3] * 10
    assert (load_split("train", all_of_them).counts() > 3).all()
    assert load_split("test", few).fingerprint() == load_split("test", all_of_them).fingerprint()
