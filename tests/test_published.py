import pandas as pd
import pytest

from dc3 import figures, published


def test_the_numbers_are_fractions_with_gaps_left_out():
    cifar = published.table("CIFAR-10").set_index(["method", "student", "ipc"])["top1_mean"]
    assert cifar["DC3", "resnet18", 10] == pytest.approx(0.578)
    assert cifar["RDED", "conv3", 10] == pytest.approx(0.502) and ("RDED", "conv3", 1) not in cifar.index
    assert ("Minimax", "resnet18", 1) not in published.table("ImageNet-1K").set_index(
        ["method", "student", "ipc"]
    ).index
    with pytest.raises(ValueError, match=r"published_as = 'scenes10'.*CIFAR-10"):
        published.table("scenes10")


def test_ours_stand_first_and_the_others_are_marked_as_published():
    ours = pd.DataFrame({"method": ["DC3"], "network": ["conv3"], "ipc": [10], "top1_mean": [0.4], "top1_std": [0.01]})
    table = published.beside(ours, "CIFAR-10")
    assert table.iloc[0].tolist() == ["DC3, conv3, here", 10, 0.4, 0.01]
    assert table["method"][1:].str.endswith("published").all() and table["top1_std"][1:].isna().all()
    axes = figures.methods_by_ipc(table).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "50"]
