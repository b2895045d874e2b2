from dc3.runs.notebook_stage import load_split


def test_images_per_class_thins_out_the_training_images_only():
    load = {"dataset": "scenes10", "data_dir": "", "image_size": 32, "images_per_class": 3}
    assert len(load_split("train", load)) == 30
    assert len(load_split("test", load)) == 1000
