import pytest
import torch
from torch import nn

from dc3.models import feature_networks, networks

HEAVY = {"vit_b_16", "swin_v2_t", "resnet101", "resnet101_modified"}  # created once, in the test of all networks


@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name != "conv6"])
def test_every_network_but_conv6_gives_logits_and_gradients_at_32_px(name):
    model = networks.create(name, 7, 32, width=8)
    features = []
    networks.last_linear(model).register_forward_hook(lambda _, inputs, out: features.append((inputs[0], out)))
    with torch.set_grad_enabled(name not in HEAVY):
        logits = model.train()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert features[0][1] is logits, "the last linear layer does not give the logits"
    assert features[0][0].shape == (2, networks.last_linear(model).in_features)
    if name not in HEAVY:
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["conv4", "conv6", "resnet18_modified", "mobilenet_v2", "alexnet"])
def test_networks_take_64_px(name):
    assert networks.create(name, 3, 64, width=8).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_convnet_is_the_published_one():
    model = networks.create("conv3", 10, 32)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [128] * 3
    assert networks.last_linear(model).in_features == 128 * 4 * 4
    # 3·128·9+128, twice 128·128·9+128, three norms of 2·128, 2048·10+10
    assert sum(p.numel() for p in model.parameters()) == 3584 + 2 * 147584 + 3 * 256 + 20490
    x = torch.randn(2, 3, 32, 32)
    y = x
    for block in list(model)[:3]:
        convolution, norm = block[0], block[1]
        y = nn.functional.conv2d(y, convolution.weight, convolution.bias, padding=1)
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, unbiased=False) + norm.eps).sqrt()
        y = y.relu().unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)
    expected = y.flatten(1) @ networks.last_linear(model).weight.T + networks.last_linear(model).bias
    torch.testing.assert_close(model.train()(x), expected, atol=1e-4, rtol=0)


def test_modified_resnet_keeps_the_size_in_its_stem():
    model = networks.create("resnet18_modified", 10, 32).eval()
    sizes = []
    model.layer1.register_forward_hook(lambda _, inputs, out: sizes.append(inputs[0].shape[-1]))
    model(torch.randn(1, 3, 32, 32))
    assert sizes == [32]


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2", "alexnet"])
def test_small_images_keep_a_final_map_of_two_pixels(name):
    model = networks.create(name, 10, 32).eval()
    assert model.features(torch.randn(1, 3, 32, 32)).shape[-1] == 2


def test_vgg11_reads_its_final_map_once():
    with torch.device("meta"):
        model = networks.NETWORKS["vgg11"].build(10, 32, 0)
    assert model.classifier[0].in_features == 512, "the 1×1 map is stretched to copies"


def test_swin_and_vit_have_tokens_enough():
    with torch.device("meta"):
        assert networks.NETWORKS["vit_b_16"].build(10, 32, 0).seq_length == 64 + 1
        assert networks.NETWORKS["vit_b_16"].build(10, 224, 0).seq_length == 14 * 14 + 1
        assert networks.NETWORKS["swin_v2_t"].build(10, 32, 0).features[0][0].stride == (2, 2)
        assert networks.NETWORKS["swin_v2_t"].build(10, 224, 0).features[0][0].stride == (4, 4)


def test_published_learning_rates():
    rates = {name: network.lr for name, network in networks.NETWORKS.items()}
    assert rates.pop("vgg11") == 5e-4
    assert rates.pop("efficientnet_b0") == 2e-3
    assert rates.pop("mobilenet_v2") == 2.5e-3
    assert {rates.pop(name) for name in ("alexnet", "vit_b_16", "swin_v2_t")} == {1e-4}
    assert set(rates.values()) == {1e-3}


def test_weights_depend_on_the_seed_only():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (networks.create("conv3", 4, 32, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was moved"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(networks.last_linear(first).weight, networks.last_linear(other).weight)


def test_torchvision_weights_get_a_new_head(monkeypatch):
    import torchvision

    trained = torchvision.models.resnet18(num_classes=1000)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: trained)
    model = networks.create("resnet18", 5, 64, weights="IMAGENET1K_V1")
    assert model is trained
    assert model.fc.out_features == 5


@pytest.mark.parametrize(
    ("name", "image_size", "weights", "message"),
    [
        ("conv7", 32, None, r"conv7.*conv3, conv4.*swin_v2_t"),
        ("conv6", 32, None, r"conv6.*≥ 64.*32.*conv3, conv4, conv5$"),
        ("conv3", 7, None, r"conv3.*choose another network"),
        ("alexnet", 16, None, r"alexnet': does not accept image_size 16"),
        ("vit_b_16", 200, None, r"vit_b_16.*multiple of 16"),
        ("conv3", 32, "IMAGENET1K_V1", r"none for conv3"),
        ("resnet18", 32, "MINE", r"MINE.*IMAGENET1K_V1"),
    ],
)
def test_what_cannot_be_is_refused(name, image_size, weights, message):
    with pytest.raises(ValueError, match=message):
        networks.create(name, 10, image_size, weights=weights)


def test_a_model_without_linear_layer_is_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        networks.last_linear(nn.Conv2d(3, 3, 3))


class Full(nn.Linear):
    """A network that the GPU has no room for."""

    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def test_a_full_gpu_is_not_told_as_a_size_that_does_not_fit(monkeypatch):
    with pytest.raises(torch.OutOfMemoryError, match="allocate 20 GiB"):
        networks.check_takes(Full(3, 4), 224, 4, "the teacher")
    extract = feature_networks.classifier_network(Full(3, 4), "teacher").extract
    with pytest.raises(torch.OutOfMemoryError, match="allocate 20 GiB"):
        extract(torch.zeros((2, 8, 8, 3), dtype=torch.uint8))
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", lambda *_: Full(3, 4)(None))
    with pytest.raises(torch.OutOfMemoryError, match="allocate 20 GiB"):
        feature_networks.feature_network("inception")
