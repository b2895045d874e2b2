"""A resumable training loop for diffusion components: AdamW, cosine decay, averaged weights."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import nn

from dc3.files import replacing
from dc3.progress import trange

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
) -> None:
    """Trains `network` in place and leaves its exponentially averaged weights in it.

    `loss_at(step)` returns the scalar loss of one step; it takes every random draw from the step number, so a run that
    is killed and started again continues from the last checkpoint and sees the batches it would have seen. A finished
    checkpoint trains no further. FloatingPointError when a loss is not finite; the last checkpoint stays.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    average = EMAModel(network.parameters(), decay=ema_decay, use_ema_warmup=True, power=3 / 4)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "average": average}
    start = restore(parts, checkpoint)
    network.train()
    running = None
    for step in (bar := trange(start, steps, initial=start, total=steps, desc=checkpoint.stem)):
        loss = loss_at(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"{checkpoint.stem}: the loss of step {step} is {loss.item()}: lower learning_rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.step(network.parameters())
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        bar.set_postfix(loss=f"{running:.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(parts, step + 1, checkpoint)
            log.info("%s: step %d of %d, loss %.4f", checkpoint.stem, step + 1, steps, running)
    average.copy_to(network.parameters())
    network.eval()


def save(parts: dict, step: int, checkpoint: Path) -> None:
    """Writes the state of every part and the step reached, complete or not at all."""
    with replacing(checkpoint) as partial:
        torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, partial)


def restore(parts: dict, checkpoint: Path) -> int:
    """Loads what `save` wrote into the parts; returns the step to go on from (0 without a checkpoint)."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]
