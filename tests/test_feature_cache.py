import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from dc3.fidelity import cached_embed, embed
from dc3.images.image_set import in_memory
from dc3.models.feature_networks import FeatureNetwork, classifier_network

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Counted:
    """A feature network that counts the images it saw."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 3))
        plain, self.seen = classifier_network(model, "teacher"), 0

        def extract(images):
            self.seen += len(images)
            return plain.extract(images)

        self.network = dataclasses.replace(plain, extract=extract)


def test_a_set_is_embedded_once_and_read_back_exactly(tmp_path):
    counted = Counted()
    first = cached_embed(IMAGES, counted.network, tmp_path)
    again = cached_embed(IMAGES.copy(), Counted().network, tmp_path)
    assert counted.seen == 6
    expected = embed(IMAGES, counted.network)
    for kept in (first, again):
        np.testing.assert_array_equal(kept.features, expected.features)
        np.testing.assert_array_equal(kept.logits, expected.logits)


def test_another_set_beside_embeds_itself_only(tmp_path):
    counted = Counted()
    cached_embed(IMAGES, counted.network, tmp_path)
    cached_embed(IMAGES, counted.network, tmp_path)
    cached_embed(IMAGES[:4], counted.network, tmp_path)
    assert counted.seen == 10


def test_other_pixels_weights_and_image_sets_are_other_features(tmp_path):
    changed = IMAGES.copy()
    changed[0, 0, 0, 0] ^= 1
    sets = [IMAGES, changed, in_memory("x", "train", ("a",), np.zeros(6, int), IMAGES)]
    for seed in (0, 1):
        for images in sets:
            np.testing.assert_array_equal(
                cached_embed(images, Counted(seed).network, tmp_path).features,
                embed(images, Counted(seed).network).features,
            )
    assert len(list(tmp_path.iterdir())) == 6


def test_a_network_of_unknown_weights_is_refused(tmp_path):
    network = FeatureNetwork("mine", lambda images: (torch.zeros(len(images), 2),) * 2, "cpu")
    with pytest.raises(ValueError, match="feature_network = 'mine': has no fingerprint"):
        cached_embed(IMAGES, network, tmp_path)
