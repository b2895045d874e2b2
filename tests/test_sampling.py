"""dc3.sampling against explicit oracles: materialised embeddings, Python loops in float64, autograd, submodlib."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradients import factors
from torch import nn

from dc3 import submodlib_picks
from dc3.gradients import logit_gradient
from dc3.sampling import (
    LOG_DETERMINANT_RIDGE,
    allocate_budget,
    gradient_kernel,
    relative_gains,
    represented_by,
    select,
)

FUNCTIONS = ["GraphCut", "FacilityLocation", "LogDeterminant"]
GREEDY = ["NaiveGreedy", "LazyGreedy", "StochasticGreedy", "LazierThanLazyGreedy"]
BUDGETS = [1, 5, 10, 50]
OWN_GOLDEN = Path(__file__).parent / "goldens" / "sampling_synthetic.npz"
SHARED_GOLDENS = sorted((Path(__file__).parents[2] / "shared" / "goldens").glob("*.npz"))


def random_factors(n, classes=7, dim=12, seed=0):
    """Gradients that sum to 0 with features ≥ 0, as a network's are; float32."""
    rng = np.random.default_rng(seed)
    gradient = rng.normal(size=(n, classes))
    gradient -= gradient.mean(1, keepdims=True)
    return gradient.astype(np.float32), np.abs(rng.normal(size=(n, dim))).astype(np.float32)


def explicit_kernel(logit_grad, embedding):
    """The published way: the embeddings concat(g, g ⊗ h), and their cosines, in float64."""
    g, h = logit_grad.astype(np.float64), embedding.astype(np.float64)
    rows = np.concatenate([g, (g[:, :, None] * h[:, None, :]).reshape(len(g), -1)], axis=1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return 0.5 + 0.5 * rows @ rows.T


def value(function, kernel, picks):
    """f(picks) by its definition, so that a gain is a difference of two values."""
    sub = kernel[np.ix_(picks, picks)]
    if function == "FacilityLocation":
        return sum(max([0.0, *(row[j] for j in picks)]) for row in kernel)
    return np.linalg.slogdet(sub + LOG_DETERMINANT_RIDGE * np.eye(len(picks)))[1]


def explicit_gain(function, kernel, picks, x, lam=1.0):
    if function == "GraphCut":
        return lam * sum(kernel[i, x] for i in range(len(kernel))) - 2 * sum(kernel[j, x] for j in picks)
    return value(function, kernel, [*picks, x]) - value(function, kernel, picks)


def explicit_greedy(function, kernel, budget, lam=1.0):
    kernel, picks, gains = kernel.astype(np.float64), [], []
    for _ in range(budget):
        candidates = [x for x in range(len(kernel)) if x not in picks]
        scores = [explicit_gain(function, kernel, picks, x, lam) for x in candidates]
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of equal ones
        picks.append(candidates[best])
        gains.append(scores[best])
    return picks, gains


# --- the kernel


@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 2, 1), (33, 10, 8), (130, 20, 31)])
@pytest.mark.parametrize("block_rows", [256, 13])
def test_kernel_is_the_cosine_of_the_explicit_embeddings(shape, block_rows):
    g, h = random_factors(*shape)
    kernel = gradient_kernel(g, h, block_rows=block_rows)
    assert kernel.dtype == np.float32
    assert np.abs(kernel - explicit_kernel(g, h)).max() < 2e-6
    assert (kernel == kernel.T).all()
    assert (np.diag(kernel) == 1).all()


def test_kernel_of_torch_is_torch_and_the_same():
    g, h = random_factors(40)
    kernel = gradient_kernel(torch.from_numpy(g), torch.from_numpy(h))
    assert isinstance(kernel, torch.Tensor) and kernel.dtype == torch.float32
    assert np.array_equal(kernel.numpy(), gradient_kernel(g, h))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_kernel_of_other_dtypes(dtype):
    g, h = (np.round(4 * factor).astype(dtype) for factor in random_factors(30))
    kernel = gradient_kernel(g, h)
    assert kernel.dtype == np.float32
    assert np.abs(kernel - explicit_kernel(g, h)).max() < 2e-6


@given(st.integers(2, 40), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_kernel_follows_a_permutation_of_the_images(n, seed):
    g, h = random_factors(n, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    permuted = gradient_kernel(g[order], h[order])
    assert np.abs(permuted - gradient_kernel(g, h)[np.ix_(order, order)]).max() < 1e-6


@given(st.integers(1, 20), st.integers(0, 1000), st.floats(-30, 30))
@settings(deadline=None, max_examples=30)
def test_kernel_ignores_the_length_of_a_gradient(n, seed, exponent):
    g, h = random_factors(n, seed=seed)
    scaled = g.copy()
    scaled[::2] *= np.float32(10.0**exponent)
    assert np.abs(gradient_kernel(scaled, h) - gradient_kernel(g, h)).max() < 1e-6


def test_kernel_of_huge_features():
    g, h = random_factors(20)
    assert np.abs(gradient_kernel(g, h * np.float32(1e30)) - explicit_kernel(g, h * 1e30)).max() < 2e-6


def test_zero_gradients_have_cosine_zero():
    g, h = random_factors(9)
    g[[2, 5]] = 0
    kernel = gradient_kernel(g, h)
    assert (kernel[[2, 5]] == 0.5).all() and (kernel[:, [2, 5]] == 0.5).all()
    assert (np.delete(np.diag(kernel), [2, 5]) == 1).all()
    assert (gradient_kernel(np.zeros_like(g), h) == 0.5).all()


def test_kernel_columns_are_columns_of_the_kernel():
    g, h = random_factors(50)
    g[7] = 0
    columns = [7, 3, 49, 3]
    part = gradient_kernel(g, h, columns=columns, block_rows=16)
    assert np.abs(part - gradient_kernel(g, h)[:, columns]).max() < 1e-6
    assert part[3, 1] == 1 and part[7, 0] == 0.5


def test_kernel_of_read_only_arrays():
    g, h = random_factors(10)
    expected = gradient_kernel(g, h)
    g.flags.writeable = h.flags.writeable = False
    assert np.array_equal(gradient_kernel(g, h), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda g, h: (np.where(np.arange(6)[:, None] == 4, np.nan, g), h), "logit_grad.*row 4"),
        (lambda g, h: (g, np.where(h == h.max(), np.inf, h)), "embedding"),
        (lambda g, h: (g[:5], h), "5 rows and embedding 6"),
        (lambda g, h: (g[:, 0], h), "logit_grad"),
        (lambda g, h: (g[:0], h[:0]), "logit_grad"),
        (lambda g, h: (torch.from_numpy(g), h), "one kind"),
    ],
)
def test_bad_factors_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        gradient_kernel(*change(*random_factors(6)))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of resident memory is read from /proc")
def test_kernel_memory_is_the_output_and_little_more():
    """n = 4000: 64 MB of output; the docstring's arithmetic gives 8 MB of scratch and 8 MB of factors."""

    def peak():
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])

    factors = random_factors(4000, 10, 512)
    gradient_kernel(*(factor[:600] for factor in factors))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = peak()
    kernel = gradient_kernel(*factors)
    assert kernel.nbytes == 64e6
    assert peak() - before < 64e6 + 40e6


# --- the factors


class SmallNet(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.hidden = nn.Linear(32, 16)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)

    def features(self, x):
        return self.dropout(F.relu(self.hidden(self.body(x).flatten(1))))

    def forward(self, x):
        return self.head(self.features(x))


def images_and_labels(n=21, classes=6, size=12):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 3, size, size)).astype(np.float32), rng.integers(0, classes, n)


def autograd_logit_gradient(logits, labels, loss):
    logits = logits.double().detach().requires_grad_(True)
    outputs = logits.softmax(1) if loss == "softmax_ce" else logits
    F.cross_entropy(outputs, labels, reduction="sum").backward()
    return logits.grad


@pytest.mark.parametrize("loss", ["softmax_ce", "ce"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
def test_closed_form_is_the_gradient_of_autograd(loss, scale):
    torch.manual_seed(0)
    logits, labels = scale * torch.randn(200, 10), torch.randint(10, (200,))
    expected = autograd_logit_gradient(logits, labels, loss)
    gradient = logit_gradient(logits, labels, loss)
    assert gradient.dtype == torch.float32
    assert (gradient - expected).abs().max() < 1e-7
    told = expected.abs().amax(1) > 1e-8  # below, autograd's own rounding shows
    assert told.sum() > 100
    unit, expected_unit = (rows[told] / rows[told].norm(dim=1, keepdim=True) for rows in (gradient.double(), expected))
    assert (unit * expected_unit).sum(1).min() > 1 - 1e-6


@pytest.mark.parametrize("loss", ["softmax_ce", "ce"])
def test_confident_predictions_keep_the_direction_of_their_gradient(loss):
    """At a margin of 60 the exact gradient is about e^−60, and proportional to the one at a margin of 40."""
    rest = torch.tensor([0.0, 1.0, 2.0])
    near, far = (logit_gradient(torch.cat([m + rest[:1], rest])[None], torch.tensor([0]), loss) for m in (40.0, 60.0))
    assert near.abs().max() > 0
    assert F.cosine_similarity(near.double() * 1e15, far.double() * 1e24).item() > 1 - 1e-6


@pytest.mark.parametrize("loss", ["softmax_ce", "ce"])
def test_factors_are_the_last_layers_input_and_gradient(loss):
    torch.manual_seed(0)
    model, (images, labels) = SmallNet().eval(), images_and_labels()
    g, h = factors(model, images, labels, loss=loss, batch_size=8)
    features = model.features(torch.from_numpy(images))
    expected = autograd_logit_gradient(model.head(features), torch.from_numpy(labels), loss)
    assert g.dtype == h.dtype == np.float32
    assert np.abs(h - features.detach().numpy()).max() < 1e-6
    assert np.abs(g - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_factors_of_torchvision_networks(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    images, labels = images_and_labels(3, classes=5, size=64)
    g, h = factors(model, images, labels, loss="ce")
    logits = model(torch.from_numpy(images)).detach()
    expected = logits.softmax(1) - F.one_hot(torch.from_numpy(labels), 5)
    assert np.abs(g - expected.numpy()).max() < 1e-5
    assert h.shape == (3, {"resnet18": 512, "mobilenet_v3_small": 1024}[name])


def test_images_may_be_an_array_a_tensor_or_a_stream_of_batches():
    model, (images, labels) = SmallNet(), images_and_labels()
    whole = factors(model, images, labels, batch_size=5)
    held = []

    def stream():
        for start in range(0, len(images), 5):
            held.append(start)
            yield torch.from_numpy(images[start : start + 5])

    for given_images in (torch.from_numpy(images), stream()):
        for factor, expected in zip(factors(model, given_images, labels, batch_size=5), whole, strict=True):
            assert np.array_equal(factor, expected)
    assert held == [0, 5, 10, 15, 20]


def test_uint8_images_are_normalised():
    model, labels = SmallNet(), [0, 1, 2]
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    for factor, expected in zip(factors(model, images, labels), factors(model, normalised, labels), strict=True):
        assert np.abs(factor - expected).max() < 1e-6


def test_the_model_is_put_back_as_it_was():
    model, (images, labels) = SmallNet().train(), images_and_labels()
    model.body.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    factors(model, images, labels)
    with pytest.raises(ValueError, match="images"):
        factors(model, images[:4], labels)
    assert model.training and model.head.training and not model.body.training
    assert not model.head._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(torch.from_numpy(images)).requires_grad


def test_amp_sets_the_precision_of_the_factors():
    model, (images, labels) = SmallNet(), images_and_labels()
    exact, half = (factors(model, images, labels, amp=amp)[1] for amp in (False, True))
    assert np.array_equal(exact, factors(model, images, labels)[1]), "on a CPU"
    assert 0 < np.abs(exact - half).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": [0, 1, 6]}, "class numbers 0 … 5"),
        ({"labels": [0, -1, 1]}, "labels"),
        ({"labels": [0.0, 1.0, 1.0]}, "labels"),
        ({"labels": [0, 1]}, "images = 3: expected one for each of 2 labels"),
        ({"labels": [0, 1, 1, 1]}, "images = 3: expected one for each of 4 labels"),
        ({"images": [np.zeros((4, 3, 12, 12), np.float32)]}, "images = 4 or more: expected one for each of 3 labels"),
        ({"images": iter([np.zeros((2, 3, 12, 12), np.float32)])}, "images = 2: expected one for each of 3"),
        ({"loss": "mse"}, "mse.*softmax_ce, ce"),
        ({"batch_size": 0}, "batch_size"),
        ({"images": [np.zeros((3, 12, 12), np.float32)]}, "images"),
        ({"images": np.full((3, 3, 12, 12), np.nan, np.float32)}, "NaN.*0 … 2"),
        ({"model": nn.Conv2d(3, 3, 1)}, "no linear layer"),
    ],
)
def test_bad_input_of_the_factors_is_refused(change, named):
    arguments = {"model": SmallNet(), "images": np.zeros((3, 3, 12, 12), np.float32), "labels": [0, 1, 2], **change}
    with pytest.raises(ValueError, match=named):
        factors(**arguments)


# --- the greedy


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("greedy", ["NaiveGreedy", "LazyGreedy"])
def test_greedy_is_the_explicit_greedy(function, greedy):
    kernel = gradient_kernel(*random_factors(24, seed=5))
    chosen = select(kernel, 24, function, greedy)
    picks, gains = explicit_greedy(function, kernel, 24)
    exact = 20 if function == "LogDeterminant" else 24  # the last conditional variances are the ridge's
    assert chosen.indices[:exact].tolist() == picks[:exact]
    assert np.abs(chosen.gains[:exact] - gains[:exact]).max() < 1e-6


@pytest.mark.parametrize("lam", [0.0, 0.3, 2.0])
def test_lambda_weighs_representation(lam):
    kernel = gradient_kernel(*random_factors(30, seed=2))
    kernel[4] = kernel[:, 4] = 0.5  # a zero gradient: the published gain has no s_xx, unlike submodlib's
    chosen = select(kernel, 30, lam=lam)
    picks, gains = explicit_greedy("GraphCut", kernel, 30, lam)
    assert chosen.indices.tolist() == picks
    assert np.abs(chosen.gains - gains).max() < 1e-9


def test_gains_that_begin_at_zero_are_compared_as_they_are():
    found = relative_gains(gradient_kernel(*random_factors(30)), 4, ["GraphCut"], lam=0.0)["GraphCut"]
    assert found[0] == 0 and np.isfinite(found).all()


def test_gains_of_functions_are_compared_in_units_of_the_first_pick():
    kernel = gradient_kernel(*random_factors(30))
    found = relative_gains(kernel, 10, ["GraphCut", "FacilityLocation"], lam=0.5)
    for name, gains in found.items():
        chosen = select(kernel, 10, name, lam=0.5)
        assert gains[0] == 1 and np.allclose(gains * chosen.gains[0], chosen.gains)


@pytest.mark.filterwarnings("ignore:Please import")  # submodlib's own
@pytest.mark.parametrize("function", FUNCTIONS)
def test_greedy_is_submodlibs(function):
    pytest.importorskip("submodlib", reason="it has no wheels for this Python")
    kernel = gradient_kernel(*random_factors(200, dim=200, seed=1))
    row = submodlib_picks.compared(kernel, 20, [function]).iloc[0]
    assert (row["same picks"], row["same order up to pick"]) == (20, 20)
    assert submodlib_picks.picks(kernel, 20, function) == select(kernel, 20, function).indices.tolist()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("greedy", GREEDY)
def test_any_budget_is_filled_with_different_images(function, greedy):
    kernel = gradient_kernel(*random_factors(12))
    for budget in (1, 7, 12):
        chosen = select(kernel, budget, function, greedy)
        assert len(set(chosen.indices)) == len(chosen.gains) == budget
        assert np.isfinite(chosen.gains).all()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kernel", [np.ones((6, 6), np.float32), np.full((6, 6), 0.5), np.ones((1, 1))])
def test_equal_images_are_picked_from_the_lowest_index(function, kernel):
    for budget in range(1, len(kernel) + 1):
        assert select(kernel, budget, function).indices.tolist() == list(range(budget))


def test_graph_cut_goes_on_below_zero():
    chosen = select(np.ones((5, 5), np.float32), 5)
    assert chosen.gains.tolist() == [5, 3, 1, -1, -3]


@pytest.mark.parametrize("function", ["FacilityLocation", "LogDeterminant"])
def test_duplicates_come_after_what_they_duplicate(function):
    """The correct sign of the log-determinant: the published one picks the most redundant images."""
    g, h = (np.repeat(factor, 4, axis=0) for factor in random_factors(5))
    chosen = select(gradient_kernel(g, h), 5, function)
    assert len(set(chosen.indices // 4)) == 5


def test_log_determinant_gains_sum_to_the_log_determinant():
    kernel = gradient_kernel(*random_factors(40, seed=9))
    chosen = select(kernel, 12, "LogDeterminant")
    assert math.isclose(chosen.gains.sum(), value("LogDeterminant", kernel.astype(float), chosen.indices), abs_tol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_stochastic_greedy_is_seeded(function):
    kernel = gradient_kernel(*random_factors(80))
    draws = [select(kernel, 40, function, "StochasticGreedy", seed=seed) for seed in (0, 0, 1)]
    assert draws[0].indices.tolist() == draws[1].indices.tolist() != draws[2].indices.tolist()
    assert draws[0].indices.tolist() == select(kernel, 40, function, "LazierThanLazyGreedy").indices.tolist()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_stochastic_gains_are_the_functions(function):
    kernel = gradient_kernel(*random_factors(20))
    chosen = select(kernel, 8, function, "StochasticGreedy", seed=4)
    for rank, (pick, gain) in enumerate(zip(chosen.indices, chosen.gains, strict=True)):
        expected = explicit_gain(function, kernel.astype(np.float64), chosen.indices[:rank].tolist(), pick)
        assert abs(gain - expected) < 1e-6


def test_stochastic_greedy_is_nearly_as_good():
    kernel = gradient_kernel(*random_factors(150))
    naive = select(kernel, 15, "FacilityLocation").gains.sum()
    assert select(kernel, 15, "FacilityLocation", "StochasticGreedy").gains.sum() > 0.97 * naive


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_torch_kernel_gives_the_same_and_is_left_alone(function):
    kernel = torch.from_numpy(gradient_kernel(*random_factors(60)))
    copy = kernel.clone()
    chosen = select(kernel, 10, function)
    assert torch.equal(kernel, copy)
    assert chosen.indices.tolist() == select(kernel.numpy(), 10, function).indices.tolist()
    assert chosen.indices.dtype == np.int64 and chosen.gains.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": 0}, "budget = 0"),
        ({"budget": -3}, "budget = -3"),
        ({"budget": 5}, "budget = 5.*1 to 4"),
        ({"budget": 2.0}, "budget = 2.0"),
        ({"function": "MaxCut"}, "MaxCut.*GraphCut"),
        ({"greedy": "Greedy"}, "'Greedy'.*NaiveGreedy"),
        ({"lam": float("nan")}, "lam = nan"),
        ({"lam": -1.0}, "lam = -1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"kernel": np.ones((3, 4))}, r"kernel.*\(3, 4\)"),
        ({"kernel": np.ones(4)}, "kernel"),
        ({"kernel": np.ones((0, 0))}, "kernel"),
        ({"kernel": np.diag([1, np.nan, 1, 1])}, "kernel = NaN"),
        ({"kernel": np.diag([1, 1, np.inf, 1])}, "kernel = NaN or infinite"),
        ({"kernel": np.triu(np.ones((4, 4)))}, "kernel = not symmetric"),
    ],
)
def test_bad_input_of_select_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        select(**{"kernel": np.eye(4), "budget": 2, **change})


def test_represented_by_is_the_most_similar_pick():
    kernel = gradient_kernel(*random_factors(30))
    picks = [8, 2, 20]
    expected = [max(picks, key=lambda j: kernel[i, j]) for i in range(30)]
    assert (
        represented_by(kernel, picks).tolist() == represented_by(torch.from_numpy(kernel), picks).tolist() == expected
    )
    with pytest.raises(ValueError, match="picks"):
        represented_by(kernel, [30])


# --- goldens


def overlap(chosen, expected):
    return len(set(chosen.tolist()) & set(expected.tolist())) / len(expected)


def test_own_golden():
    golden = np.load(OWN_GOLDEN)
    kernel = gradient_kernel(golden["logit_grad"], golden["embedding"])
    for function in FUNCTIONS:
        for greedy in ("NaiveGreedy", "LazyGreedy"):
            assert select(kernel, 50, function, greedy).indices.tolist() == golden[function].tolist()
            assert np.abs(select(kernel, 50, function, greedy).gains - golden[f"{function}.gains"]).max() < 1e-3


@pytest.mark.skipif(not SHARED_GOLDENS, reason="no ../shared/goldens next to the repository")
@pytest.mark.parametrize("path", SHARED_GOLDENS, ids=lambda path: path.stem)
def test_published_picks(path):
    golden = np.load(path)
    kernel = gradient_kernel(golden["logit_grad"], golden["embedding"])
    for greedy in ("NaiveGreedy", "LazyGreedy"):
        for budget in BUDGETS:
            cut, location = (golden[f"{function}.{greedy}.{budget}"] for function in FUNCTIONS[:2])
            assert overlap(select(kernel, budget, "GraphCut", greedy).indices, cut) == 1
            facility = overlap(select(kernel, budget, "FacilityLocation", greedy).indices, location)
            assert facility >= (0.94 if budget == 50 else 1)


@pytest.mark.skipif(not SHARED_GOLDENS, reason="no ../shared/goldens next to the repository")
@pytest.mark.parametrize("path", SHARED_GOLDENS, ids=lambda path: path.stem)
def test_published_gradients(path):
    golden = np.load(path)
    gradient = logit_gradient(torch.from_numpy(golden["logits"]), torch.from_numpy(golden["label"]))
    assert np.abs(gradient.numpy() - golden["logit_grad"]).max() < 1e-6


# --- the budget

bins = st.lists(st.integers(0, 60), min_size=1, max_size=15).filter(any)


@given(bins, st.data(), st.sampled_from(["proportional", "equal"]))
@settings(deadline=None)
def test_a_budget_is_exact_and_fits_the_bins(sizes, data, how):
    ipc = data.draw(st.integers(1, sum(sizes)))
    shares = allocate_budget(sizes, ipc, how)
    assert sum(shares) == ipc
    assert all(0 <= share <= size and type(share) is int for share, size in zip(shares, sizes, strict=True))
    assert shares == allocate_budget(np.array(sizes), np.int64(ipc), how)


@given(bins, st.data())
@settings(deadline=None)
def test_a_proportional_share_is_within_one_of_the_quota(sizes, data):
    ipc = data.draw(st.integers(1, sum(sizes)))
    for share, size in zip(allocate_budget(sizes, ipc), sizes, strict=True):
        assert abs(share - ipc * size / sum(sizes)) < 1


@given(bins, st.data())
@settings(deadline=None)
def test_equal_shares_differ_by_one_unless_a_bin_is_full(sizes, data):
    shares = allocate_budget(sizes, data.draw(st.integers(1, sum(sizes))), "equal")
    unfilled = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    if unfilled:
        assert max(shares) - min(unfilled) <= 1


@pytest.mark.parametrize(
    ("sizes", "ipc", "how", "expected"),
    [
        ([50, 30, 20], 10, "proportional", [5, 3, 2]),
        ([5, 5, 5], 4, "proportional", [2, 1, 1]),
        ([6, 3, 1], 1, "proportional", [1, 0, 0]),
        ([0, 4], 3, "proportional", [0, 3]),
        ([50, 30, 20], 10, "equal", [4, 3, 3]),
        ([1, 9, 9], 10, "equal", [1, 5, 4]),
        ([1, 0, 1], 2, "equal", [1, 0, 1]),
    ],
)
def test_budgets_by_hand(sizes, ipc, how, expected):
    assert allocate_budget(sizes, ipc, how) == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([3, 4], 8), r"ipc = 8: .*1 to 7.*\[3, 4\]"),
        (([3, 4], 0), "ipc = 0"),
        (([3, 4], -1), "ipc = -1"),
        (([3, 4], 1.5), "ipc = 1.5"),
        (([3, -4], 1), "bin_sizes"),
        (([3.5], 1), "bin_sizes"),
        (([], 1), "ipc"),
        (([3, 4], 2, "fair"), "fair.*proportional, equal"),
    ],
)
def test_bad_budgets_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        allocate_budget(*arguments)


def write_own_golden():
    """Run this file as a script to make the golden afresh: explicit kernel, explicit greedy, nothing of dc3."""
    g, h = random_factors(120, classes=10, dim=64, seed=11)
    h += 3 * np.random.default_rng(12).integers(0, 4, (120, 1))  # of unlike lengths, as features are
    kernel = explicit_kernel(g, h)
    np.fill_diagonal(kernel, 1)  # exactly, for LogDeterminant's first pick is a tie
    picks = {function: explicit_greedy(function, kernel, 50) for function in FUNCTIONS}
    arrays = {function: np.array(indices) for function, (indices, _) in picks.items()}
    gains = {f"{function}.gains": np.array(values) for function, (_, values) in picks.items()}
    OWN_GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(OWN_GOLDEN, logit_grad=g, embedding=h.astype(np.float32), **arrays, **gains)


if __name__ == "__main__":
    write_own_golden()
