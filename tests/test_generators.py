"""The plans of 07_finetuning are those that its parameters describe."""

import numpy as np
import pytest
import torch

from dc3.generators.study import plans_of
from dc3.images.image_set import in_memory
from dc3.machine.paths import SHIPPED_EDITOR
from dc3.runs.parameters import declared


@pytest.fixture
def train():
    return in_memory("noise", "train", ["cat", "dog", "hen"], np.arange(3), np.zeros((3, 32, 32, 3), np.uint8))


def plans(train, amp=None, **values):
    defaults = {name: parameter.default for name, parameter in declared("07_finetuning").items()}
    return plans_of(defaults | values, train.classes, 32, seed=5, device=torch.device("cpu"), amp=amp)


def test_each_kind_has_its_own_steps_and_all_else_in_common(train):
    found = plans(train, dit_steps=7, lora_steps=9, lora_lr=0.5, class_dropout=0.25, images_generated=4)
    assert list(found) == ["DiT", "LoRA"]
    assert (found["DiT"].recipe.steps, found["LoRA"].recipe.steps, found["LoRA"].recipe.learning_rate) == (7, 9, 0.5)
    assert {plan.recipe.drop for plan in found.values()} == {0.25}
    assert {(plan.recipe.seed, plan.sampling.per_class) for plan in found.values()} == {(5, 4)}
    assert list(plans(train, generators=["lora"])) == ["LoRA"]
    assert plans(train, amp=True)["DiT"].recipe.amp is True


def test_a_small_dit_has_the_shape_that_is_asked_for_and_the_same_start_for_the_same_seed(train):
    make = plans(train, dit_width=32, dit_depth=2, dit_heads=2)["DiT"].make
    one, again, other = (make(seed) for seed in (1, 1, 2))
    assert one.classes == 3 and one.transformer.config.num_layers == 2
    assert one.transformer.config.num_attention_heads * one.transformer.config.attention_head_dim == 32
    first, same, differs = (next(g.transformer.parameters()).detach().flatten() for g in (one, again, other))
    assert torch.equal(first, same) and not torch.equal(first, differs)


def test_a_lora_is_prompted_with_the_names_that_are_given(train):
    values = {"lora_base": SHIPPED_EDITOR.name, "prompt_template": "one {class}"}
    assert plans(train, **values)["LoRA"].make(0).classes == 3
