import pandas as pd
import pytest

from dc3.figures import accuracy
from dc3.figures.style import BLUE
from dc3.runs import published


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
    axes = accuracy.beside_published(table).axes
    assert [ax.get_title() for ax in axes] == ["IPC 1", "IPC 10", "IPC 50"]
    assert [label.get_text() for label in axes[0].get_yticklabels()][-1] == "DC3, conv3, here"
    ours = [line for ax in axes for line in ax.get_lines() if line.get_color() == BLUE]
    assert next(line.get_xdata().tolist() for line in ours if len(line.get_xdata()) == 1) == [pytest.approx(40)]
