"""The one loop behind training, recovery after pruning and quantisation-aware training.

Devices, mixed precision and several processes are lightning-fabric's: whoever sets up a Fabric decides, the loop runs
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgelung.errors import ConversionError

__all__ = ["Batch", "run_steps"]

Batch = tuple[Tensor, ...]


def run_steps(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterator[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int,
    schedule: LRScheduler | None = None,
    clip_norm: float | None = None,
    tick: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train in place for so many steps; the mode of the network (training or evaluation) is the caller's.

    Args:
        fabric: Where and in which precision to compute.
        model: The network, from ``fabric.setup``.
        optimizer: Its optimizer, from the same call.
        batches: Gives at least ``steps`` batches, on any device; exactly that many are taken.
        loss: From the network and a batch on its device to a scalar.
        steps: Batches to train on, at least 1.
        schedule: Stepped after every batch.
        clip_norm: Gradients with a larger norm, all parameters together, are scaled down to it.
        tick: Called after every step with (steps done, steps in all, its loss).

    Returns:
        The loss of every step, of this process's share of the batch.

    Raises:
        ConversionError: When a loss is not finite, or the batches run out.
    """
    losses: list[float] = []
    for step in range(1, steps + 1):
        batch = next(batches, None)
        if batch is None:
            raise ConversionError("training", f"the data ended before step {step} of {steps}")
        value = loss(model, fabric.to_device(batch))
        # Before the weights are touched: a NaN would be in all of them one step later.
        number = value.item()
        if not math.isfinite(number):
            reason = f"the network gives no numbers at step {step}"
            raise ConversionError("training", reason, hint="lower the learning rate")
        optimizer.zero_grad()
        fabric.backward(value)
        if clip_norm is not None:
            fabric.clip_gradients(model, optimizer, max_norm=clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(number)
        if tick is not None:
            tick(step, steps, number)
    return losses
