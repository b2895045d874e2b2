"""A resumable training loop for diffusion components: AdamW, cosine decay, averaged weights."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import nn

from dc3.machine.files import replacing
from dc3.machine.keeping import read_undamaged
from dc3.machine.progress import trange

log = logging.getLogger(__name__)


def fit(
    network: nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    checkpoint: Path,
    *,
    steps: int,
    learning_rate: float,
    ema_decay: float = 0.999,
    warmup: int = 100,
    save_every: int = 250,
    accumulate: int = 1,
) -> list[float]:
    """Trains `network` in place, leaves its exponentially averaged weights in it, and returns the loss of every step.

    `loss_at(step)` returns the scalar loss of one step; its draws must depend on the step alone, so that a killed run
    resumes from the last checkpoint with the same batches. On a CPU it ends in the weights of an undisturbed run, on a
    GPU close to them, because GPU kernels are not deterministic. A finished checkpoint trains no further. With
    `accumulate` a step averages the gradients of so many parts, from `loss_at(step · accumulate)` on.
    FloatingPointError when a loss is not finite; the last checkpoint stays.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    average = EMAModel(network.parameters(), decay=ema_decay, use_ema_warmup=True, power=3 / 4)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "average": average}
    losses = restore(parts, checkpoint)
    start = len(losses)
    network.train()
    running = None
    for step in (bar := trange(start, steps, initial=start, total=steps, desc=checkpoint.stem, unit="steps")):
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(loss_at, step, accumulate, checkpoint.stem))
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.step(network.parameters())
        running = losses[-1] if running is None else 0.99 * running + 0.01 * losses[-1]
        bar.set_postfix(loss=f"{running:.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(parts, losses, checkpoint)
            log.info("%s: step %d of %d, loss %.4f", checkpoint.stem, step + 1, steps, running)
    average.copy_to(network.parameters())
    network.eval()
    return losses


def backward(loss_at: Callable[[int], torch.Tensor], step: int, accumulate: int, name: str) -> float:
    """Adds the gradients of one step; returns its loss, the mean over the parts. FloatingPointError unless finite."""
    total = 0.0
    for part in range(step * accumulate, (step + 1) * accumulate):
        loss = loss_at(part) / accumulate
        loss.backward()
        value = loss.item()  # a GPU has queued the backward pass before it waits here
        if not math.isfinite(value):
            raise FloatingPointError(f"{name}: the loss of step {step} is {value}: lower learning_rate")
        total += value
    return total


def save(parts: dict, losses: list[float], checkpoint: Path) -> None:
    """Writes the state of every part and the losses of the steps done, complete or not at all."""
    content = {"step": len(losses), "losses": losses}
    with replacing(checkpoint) as partial:
        torch.save(content | {name: part.state_dict() for name, part in parts.items()}, partial)


def restore(parts: dict, checkpoint: Path) -> list[float]:
    """Loads what `save` wrote into the parts; returns the losses of the steps done, NaN in old checkpoints."""
    state = read_undamaged(checkpoint, partial(torch.load, map_location="cpu", weights_only=True))
    if state is None:
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    parts["average"].to(next(parts["network"].parameters()).device)  # only it keeps its tensors on the CPU
    return state.get("losses", [math.nan] * state["step"])


def seeded(make: Callable[[], Any], seed: int) -> Any:
    """What `make` builds with random weights from `seed`; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
