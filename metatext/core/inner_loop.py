"""The inner loop, and which of its steps keep their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates, add, detached_sum, gradient
from metatext.core.hessian_products import gradient_graph
from metatext.core.in_place import leave_for_scratch_memory, move
from metatext.core.task import Step, Task


def inner_loop(
    task: Task,
    rates: Sequence[Rates],
    kept_graphs: int = 0,
    *,
    if_it_fits: bool = False,
    still: int = 0,
    adam: bool = False,
    proximal: float = 0.0,
    home: list[Tensor] | None = None,
) -> Iterator[Step]:
    """theta_{k+1} = theta_k - a_k g_k, one step for each entry of `rates`; yields what is left of each step.

    Args:
        task: its moving tensors are moved; run it within `in_scratch_memory`.
        rates: a_k for each moving tensor, for each step.
        kept_graphs: keep the graph of g_k in this many of the last steps.
        if_it_fits: keep no more graphs than half of the memory that is free now holds.
        still: give the gradient of the still tensors too in this many of the last steps.
        adam: take Adam's direction in place of g_k (no graphs).
        proximal: lambda, which adds lambda (theta_k - home) to g_k.
        home: theta_0, for the proximal term.
    """
    moved = len(task.moving)
    room, optimizer = _GraphBudget(task, len(rates) - kept_graphs, if_it_fits), Adam() if adam else None
    for k, step_rates in enumerate(rates):
        if room.for_step(k):
            graphs = room.record()
            values = leave_for_scratch_memory(task.moving)  # the graphs go on reading theta_k
            step = Step(detached_sum(graphs, task.loss_scale), values, graphs)
        else:
            wanted = task.everything if k >= len(rates) - still else task.moving
            found = gradient(task.support, wanted, task.loss_scale)[1]
            step = Step(found[:moved], still=found[moved:] or None)
        if home is not None:
            add(step.gradient, torch._foreach_sub([tensor.data for tensor in task.moving], home), proximal)
        if optimizer:
            step = Step(optimizer.direction(step.gradient))
        move(task.moving, step.gradient, step_rates, -1.0)
        yield step


class Adam:
    """Adam's directions for one task (Kingma 2015, algorithm 1), with its usual constants."""

    def __init__(self) -> None:
        self.k, self.state = 0, dict[int, Any]()

    def direction(self, g: Gradient) -> Gradient:
        """m / (sqrt(v) + 1e-8), bias-corrected, for the gradient of the next step."""
        self.k += 1
        result: Gradient = []
        for i, tensor in enumerate(g):
            if tensor is None:
                result.append(None)
                continue
            m, v = self.state.setdefault(i, (torch.zeros_like(tensor), torch.zeros_like(tensor)))
            m.lerp_(tensor, 0.1)
            v.mul_(0.999).addcmul_(tensor, tensor, value=0.001)
            result.append((m / (1 - 0.9**self.k)) / ((v / (1 - 0.999**self.k)).sqrt() + 1e-8))
        return result


def recorded_steps(second_order_steps: int, hvp: str, kept_graphs: int | str) -> int:
    """How many of the last inner steps record, and keep, their graphs; for "auto" the most that may."""
    if hvp != "exact":
        return 0
    return min(kept_graphs, second_order_steps) if isinstance(kept_graphs, int) else second_order_steps


class _GraphBudget:
    """Which steps keep their graphs: those from `first`, or as many of them as the memory that is free has room for."""

    def __init__(self, task: Task, first: int, limited: bool) -> None:
        self.task, self.first = task, first
        self.budget = _free_memory(task.moving[0].device) / 2 if limited else None
        self.bytes = 0  # of the graphs of one step

    def for_step(self, k: int) -> bool:
        return k >= self.first and (self.budget is None or self.bytes <= self.budget)

    def record(self) -> list[Gradient]:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        measured = self.budget is not None and not self.bytes
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor) if measured else nullcontext():
            graphs = [gradient_graph(part, self.task) for part in self.task.support]
        if self.budget is not None:
            self.bytes = self.bytes or sum(sizes.values())
            self.budget -= self.bytes
        return graphs


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    return psutil.virtual_memory().available
