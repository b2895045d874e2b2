import math

import pytest

from dc3.validation import ars, hlr, ior, lrs


def test_recoveries_are_differences_of_accuracies():
    assert hlr(0.8, 0.5) == pytest.approx(0.3)
    assert ior(0.4, 0.5) == pytest.approx(-0.1)


def test_label_robust_score_by_hand():
    # α = 0.5·0.2 − 0.5·0.4 = −0.1: (0.904837 − 0.367879) / (2.718282 − 0.367879) = 0.536958 / 2.350402
    assert lrs(hlr=0.4, ior=0.2) == pytest.approx(0.228454, abs=1e-6)
    # α = 0.25·0.2 − 0.75·0.4 = −0.25: (0.778801 − 0.367879) / 2.350402
    assert lrs(hlr=0.4, ior=0.2, weight=0.25) == pytest.approx(0.174830, abs=1e-6)


def test_label_robust_score_spans_zero_to_one():
    assert lrs(hlr=1.0, ior=-1.0) == pytest.approx(0)
    assert lrs(hlr=-1.0, ior=1.0) == pytest.approx(1)
    assert lrs(hlr=0.0, ior=0.0) == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))


def test_augmentation_robust_score_by_hand():
    # β = 0.5·(0.6 − 0.5) + 0.5·(0.3 − 0.4) = 0: (1 − 0.367879) / 2.350402
    assert ars(0.6, 0.5, 0.3, 0.4) == pytest.approx(0.268941, abs=1e-6)
    # β = 0.8·0.1 − 0.2·0.1 = 0.06: (1.061837 − 0.367879) / 2.350402
    assert ars(0.6, 0.5, 0.3, 0.4, gamma=0.8) == pytest.approx(0.295251, abs=1e-6)


@pytest.mark.parametrize("call", [lambda: hlr(80, 50), lambda: ior(0.3, -0.1), lambda: ars(0.1, 0.1, 0.1, 20)])
def test_percentages_are_refused(call):
    with pytest.raises(ValueError, match="fraction between 0 and 1"):
        call()
