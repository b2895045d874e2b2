"""FID, KID and Inception Score against closed forms; feature networks and what they refuse."""

import logging

import numpy as np
import pytest
import torch
import torchvision
from scipy.linalg import sqrtm
from torch import nn

from dc3.fidelity import (
    Embedded,
    distances,
    embed,
    embedded_batches,
    fid,
    inception_score,
    kid,
    neighbourhoods,
    score_to_read,
    scores,
)
from dc3.images.image_set import in_memory
from dc3.models.augmentation import normalise
from dc3.models.feature_networks import FeatureNetwork, classifier_network, feature_network

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)


def closed_form_fid(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a.T), np.cov(b.T)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)


def gaussian(n, d, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift).astype(np.float32)


def convnet(classes=5):
    """Flattens a 4×4 map into its last linear layer, as conv3 does."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, classes)
    )


@pytest.mark.parametrize("d", [2, 16, 64])
def test_fid_is_the_closed_form(d):
    a, b = gaussian(500, d), gaussian(300, d, shift=0.5, seed=1)
    assert fid(a, b) == pytest.approx(closed_form_fid(a, b), abs=1e-3)
    assert fid(b, a) == pytest.approx(fid(a, b), abs=1e-6)


def test_fid_of_a_shift_is_its_square():
    a = gaussian(400, 8)
    assert fid(a, a + np.float32(2)) == pytest.approx(8 * 4, rel=1e-4)


@pytest.mark.parametrize("n", [20, 400])
def test_fid_of_a_set_with_itself_is_zero(n):
    a = gaussian(n, 32, shift=5)
    assert 0 <= fid(a, a[::-1].copy()) < 1e-4


def test_fid_streams_batches():
    a, b = gaussian(500, 16), gaussian(300, 16, seed=1)
    streamed = fid((a[i : i + 77] for i in range(0, 500, 77)), iter(np.split(b, 3)))
    assert streamed == pytest.approx(fid(a, b), abs=1e-9)


def test_fid_warns_when_the_covariance_is_singular(caplog):
    with caplog.at_level(logging.WARNING, "dc3.fidelity"):
        fid(gaussian(100, 16), gaussian(17, 16))
        assert caplog.text == ""
        fid(gaussian(100, 16), gaussian(10, 16))
    assert "FID of 10 fake images in 16 dimensions is biased upwards: read KID" in caplog.text


def test_kid_is_the_unbiased_mmd():
    a, b = gaussian(60, 8), gaussian(60, 8, shift=0.3, seed=1)
    score = kid(a, b, seed=0, subsets=3)  # subsets are the whole sets
    x, y = a.astype(np.float64), b.astype(np.float64)

    def kernel(first, second):
        return (first @ second.T / 8 + 1) ** 3

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (60 * 59)

    expected = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert score.mean == pytest.approx(expected, abs=1e-9)
    assert score.std == pytest.approx(0, abs=1e-9)


def test_kid_depends_on_its_seed_only():
    a, b = gaussian(80, 8), gaussian(50, 8, seed=1)
    torch.manual_seed(1)
    first = kid(a, b, seed=0, subset_size=20, subsets=10)
    state = torch.get_rng_state()
    assert kid(a, b, seed=0, subset_size=20, subsets=10) == first
    assert kid(a, b, seed=1, subset_size=20, subsets=10) != first
    assert torch.equal(state, torch.get_rng_state())


def test_inception_score_at_its_two_ends():
    sure = np.eye(10, dtype=np.float32)[np.arange(2000) % 10] * 50
    assert inception_score(sure, seed=0, splits=1).mean == pytest.approx(10, rel=1e-3)
    assert inception_score(np.zeros((50, 10)), seed=0, splits=5).mean == pytest.approx(1)


@pytest.mark.parametrize(("real", "fake", "score"), [(100, 65, "FID"), (100, 64, "KID"), (64, 100, "KID")])
def test_the_score_to_read_is_kid_where_a_covariance_is_singular(real, fake, score):
    assert score_to_read(real, fake, 64) == score


def test_a_flattened_map_is_averaged_over_its_area():
    model = convnet().eval()
    embedded = embed(IMAGES, classifier_network(model, "teacher"), batch_size=4)
    with torch.no_grad():
        expected = model[:3](normalise(IMAGES)).mean(dim=(2, 3)).numpy()
        logits = model(normalise(IMAGES)).numpy()
    assert np.abs(embedded.features - expected).max() < 1e-6
    assert np.abs(embedded.logits - logits).max() < 1e-5


def test_a_hidden_vector_is_taken_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    embedded = embed(IMAGES, feature_network("teacher", teacher=model))
    with torch.no_grad():
        assert np.abs(embedded.features - model[:3](normalise(IMAGES)).numpy()).max() < 1e-6


def test_embedding_leaves_no_hook_and_streams_image_sets():
    model = convnet()
    network = classifier_network(model, "teacher")
    image_set = in_memory("x", "train", "a", np.zeros(11, int), IMAGES)
    np.testing.assert_array_equal(embed(image_set, network, 3).features, embed(IMAGES, network, 3).features)
    assert sum(len(features) for features, _ in embedded_batches(image_set, network, 3)) == 11
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert network.label("FID") == "FID-teacher"


def test_end_to_end_equal_sets_are_nearer_than_inverted_ones():
    network = feature_network("teacher", teacher=convnet())
    images = np.random.default_rng(1).integers(0, 128, (120, 8, 8, 3), dtype=np.uint8)
    real, same, inverted = (embed(x, network).features for x in (images[:60], images[60:], 255 - images[60:]))
    assert fid(real, same) < 0.2 * fid(real, inverted)
    assert kid(real, same, seed=0).mean < kid(real, inverted, seed=0).mean


def test_torchvision_weights_from_a_file(tmp_path):
    model = torchvision.models.squeezenet1_1()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no linear layer"):
        feature_network("squeezenet1_1", weights=tmp_path / "weights.pth")
    model = torchvision.models.shufflenet_v2_x0_5()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    network = feature_network("shufflenet_v2_x0_5", weights=tmp_path / "weights.pth")
    assert embed(IMAGES[:2], network).features.shape == (2, 1024)
    assert network.label("KID") == "KID-shufflenet_v2_x0_5"


def test_weights_of_googlenet_get_the_normalisation_that_they_expect(tmp_path):
    model = torchvision.models.googlenet(init_weights=True)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    network = feature_network("googlenet", weights=tmp_path / "weights.pth")
    model.transform_input = True  # as torchvision's loader sets it
    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(normalise(IMAGES[:2]), (224, 224), mode="bilinear", antialias=True)
        expected = model.eval()(resized)
    assert torch.allclose(network.extract(torch.from_numpy(IMAGES[:2]))[1], expected, atol=1e-4)


def test_bad_networks_are_refused(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for arguments, error, named in (
        ({"name": "teacher"}, ValueError, "pass teacher="),
        ({"name": "vgg99"}, ValueError, "feature_network = 'vgg99'"),
        ({"name": "efficientnet_v2_l"}, ValueError, "another normalisation"),
        ({"name": "inception", "weights": tmp_path / "nothing.pth"}, FileNotFoundError, "feature_weights"),
        ({"name": "resnet18", "weights": tmp_path / "broken.pth"}, FileNotFoundError, "feature_network = 'resnet18'"),
    ):
        with pytest.raises(error, match=named):
            feature_network(**arguments)


def test_inception_without_its_package_or_weights_says_what_to_do(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises((ValueError, FileNotFoundError), match=r"feature_network = 'inception'"):
        feature_network("inception", weights=tmp_path / "broken.pth")


def test_inception_from_a_weights_file_needs_no_network(tmp_path, monkeypatch):
    """Random weights in torch-fidelity's own layout, as its downloaded file has them."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")
    extractor = inception.FeatureExtractorInceptionV3
    with monkeypatch.context() as patched:
        patched.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patched.setattr(extractor, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        random = extractor("inception-v3-compat", ["2048"])
    torch.save(random.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("it downloads"))
    network = feature_network("inception", weights=tmp_path / "weights.pth")
    embedded = embed(IMAGES[:2], network)
    assert embedded.features.shape == (2, 2048) and embedded.logits.shape == (2, 1008)
    assert network.label("FID") == "FID-inception" and network.fingerprint


def test_bad_features_are_refused():
    def network(features):
        return FeatureNetwork("mine", lambda images: (features(len(images)), torch.zeros(len(images), 2)), "cpu")

    for features, named in (
        (lambda n: torch.zeros(n, 4, 2, 2), r"shape \(11, 4, 2, 2\).*pool the map first"),
        (lambda n: torch.full((n, 4), torch.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=named):
            embed(IMAGES, network(features))
    for spoilt, named in (
        (np.full((2, 8, 8, 3), np.nan), r"images = float64 \(2, 8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3)), "expected uint8"),
        (np.zeros((2, 8, 8), np.uint8), r"images = uint8 \(2, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=named):
            embed(spoilt, network(lambda n: torch.zeros(n, 4)))
    with pytest.raises(ValueError, match="images = 1 images: expected at least 2"):
        embed(IMAGES[:1], network(lambda n: torch.zeros(n, 4)))
    with pytest.raises(ValueError, match="8×10"):
        embed(np.zeros((2, 8, 10, 3), np.uint8), classifier_network(convnet(), "teacher"))


def test_bad_sets_are_refused():
    good, spoilt = gaussian(20, 4), gaussian(20, 4)
    spoilt[3] = np.nan
    for fake, named in (
        (spoilt, "NaN"),
        (good[:, :3], "one network"),
        (good[:1], "at least 2"),
        (good[:0], r"fake = \(0, 4\): expected features"),
        (good[0], r"fake = \(4,\): expected features"),
    ):
        for score in (lambda a, b: fid(a, b), lambda a, b: kid(a, b, seed=0)):
            with pytest.raises(ValueError, match=named):
                score(good, fake)
    with pytest.raises(ValueError, match="at least 2"):
        inception_score(good[:1], seed=0)


def test_distances_have_one_row_per_set_with_subsets_of_one_size():
    def features(n, seed):
        return Embedded(gaussian(n, 4, seed=seed), gaussian(n, 3, seed=seed + 10))

    real, sets = features(50, 0), {"few": features(8, 1), "many": features(20, 2)}
    labels = {name: np.zeros(len(fake.logits), int) for name, fake in sets.items()}
    network = FeatureNetwork("teacher", None, "cpu")
    table = distances(real, sets, network, seed=1, neighbours=3, labels=labels).set_index("set")
    assert table["images"].to_dict() == {"few": 8, "many": 20} and table["read"].tolist() == ["FID-teacher"] * 2
    row, fake = table.loc["many"], sets["many"]
    assert row["FID-teacher"] == fid(real.features, fake.features)
    assert (row["KID-teacher"], row["KID, ±"]) == kid(real.features, fake.features, seed=1, subset_size=8)
    assert (row["IS-teacher"], row["IS, ±"]) == inception_score(fake.logits, seed=1, splits=10)
    assert row["coverage"] == neighbourhoods(real.features, fake.features, 3).coverage
    assert row["class named"] == (fake.logits.argmax(axis=1) == 0).mean()
    one = scores(real, fake, network, seed=1)
    assert one["FID-teacher"] == row["FID-teacher"]
    assert one["KID-teacher"] == kid(real.features, fake.features, seed=1, subset_size=100).mean
    assert "class named" not in distances(real, sets, network, seed=1)
