"""Scores that decouple condensed data from the tricks of training on them (DD-Ranking, arXiv 2505.13300).

All accuracies are fractions, 0 … 1; floats or arrays.
"""

import numpy as np


def hlr(real_hard: float, condensed_hard: float) -> float:
    """Hard label recovery: what the condensed set lacks against the real one, both with hard labels. Small is good."""
    _check(real_hard=real_hard, condensed_hard=condensed_hard)
    return real_hard - condensed_hard


def ior(condensed_any: float, random_any: float) -> float:
    """Improvement over random: the gain on equally many random images, labels of any kind, the same for both."""
    _check(condensed_any=condensed_any, random_any=random_any)
    return condensed_any - random_any


def lrs(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Label-robust score (e^α − e^−1)/(e − e^−1), α = w·IOR − (1 − w)·HLR: in 0 … 1, large is good."""
    _check(weight=weight)
    return _normalised(weight * ior - (1 - weight) * hlr)


def ars(
    condensed_augmented: float, random_augmented: float, condensed_plain: float, random_plain: float, gamma: float = 0.5
) -> float:
    """Augmentation-robust score: LRS's normalisation of β = γ·(gain with augmentation) + (1 − γ)·(gain without)."""
    _check(gamma=gamma)
    with_augmentation = ior(condensed_augmented, random_augmented)
    return _normalised(gamma * with_augmentation + (1 - gamma) * ior(condensed_plain, random_plain))


def _normalised(exponent: float) -> float:
    return (np.exp(exponent) - np.exp(-1)) / (np.e - np.exp(-1))


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
            raise ValueError(f"{name} is {value}: give a fraction between 0 and 1, not percent")
