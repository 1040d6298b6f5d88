"""Reptile: towards the weights that the inner loop ends with (Nichol 2018, algorithm 1).

Divided by the inner rate, theta_0 - theta_K is the sum of the inner gradients, which an outer optimiser takes for a
gradient. There is no query set: the inner loop runs on all texts of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metatext.core.gradients import Gradient, Rates, add
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Swept, Task


@torch.no_grad()
def reptile_gradient(task: Task, rates: Sequence[Rates], *, adam: bool = False) -> Swept:
    """The sum of the inner loop's directions, None for still tensors; the loss is the query's at its end.

    Args:
        task: losses and tensors at theta_0; its tensors have the same values afterwards.
        rates: the rate of each moving tensor, for each inner step.
        adam: take Adam's directions.
    """
    total: Gradient = [None] * len(task.moving)
    with in_scratch_memory(task.moving):
        for step in inner_loop(task, rates, adam=adam):
            add(total, step.gradient)
        loss = torch.stack([part() for part in task.query]).sum()
    return Swept(loss, [*total, *[None] * len(task.still)], [])
