"""Reptile: moves the initialisation towards the adapted weights (Nichol 2018, algorithm 1).

With a constant inner rate, (theta_0 - theta_K) / rate is the sum of the inner gradients. An outer optimiser uses this
sum as if it were a gradient. Reptile has no query set: the inner loop uses all labelled data of the task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metatext.core.gradients import Gradient, Rates, add
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Task, TaskResult


@torch.no_grad()
def reptile_gradient(task: Task, rates: Sequence[Rates], *, adam: bool = False) -> TaskResult:
    """Runs the inner loop and sums its directions.

    Args:
        task: losses and tensors at theta_0. The tensors have the same values afterwards.
        rates: a_k for each moving tensor, for each of the K inner steps.
        adam: let the inner loop take Adam's directions.

    Returns:
        The query loss at theta_K, and the sum of the directions for `task.moving`. The entries of `task.constant` are
        None.
    """
    total: Gradient = [None] * len(task.moving)
    with in_scratch_memory(task.moving):
        for step in inner_loop(task, rates, adam=adam):
            add(total, step.gradient)
        loss = torch.stack([part() for part in task.query]).sum()
    return TaskResult(loss, [*total, *[None] * len(task.constant)], [])
