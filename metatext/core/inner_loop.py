"""The inner loop: gradient descent on the support loss. Some of its steps can keep their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates, add, detached_sum, gradient
from metatext.core.hessian_products import gradient_graph
from metatext.core.in_place import move, switch_to_copies
from metatext.core.task import Step, Task


def inner_loop(
    task: Task,
    rates: Sequence[Rates],
    kept_graphs: int = 0,
    *,
    limit_memory: bool = False,
    constant_gradients: int = 0,
    adam: bool = False,
    proximal: float = 0.0,
    theta_0: list[Tensor] | None = None,
) -> Iterator[Step]:
    """Updates the moving tensors in place: theta_{k+1} = theta_k - a_k g_k, with g_k = grad L_S(theta_k).

    The loop is a generator and makes a step whenever it is advanced. Run it within `in_scratch_memory(task.moving)`,
    which restores the tensors.

    Args:
        task: support loss, and tensors at theta_0.
        rates: a_k for each moving tensor, for each of the K steps.
        kept_graphs: number of last steps that keep the graph of g_k, for exact Hessian-vector products.
        limit_memory: keep only as many graphs as fit in half of the memory that is free at the start. One is always
            kept.
        constant_gradients: number of last steps that also compute the gradient for `task.constant`.
        adam: use Adam's direction in place of g_k. Needs `kept_graphs` = 0.
        proximal: strength lambda of the proximal term, which adds lambda (theta_k - theta_0) to g_k.
        theta_0: initial values, see `in_scratch_memory`. There is no proximal term without them.

    Yields:
        The results of each step, after the update.

    Example:
        >>> theta = torch.tensor(1.0, requires_grad=True)
        >>> task = Task(support=[lambda: 0.5 * theta.square()], query=[], moving=[theta])
        >>> [theta.item() for _ in inner_loop(task, [[0.5], [0.5]])]
        [0.5, 0.25]
    """
    moved = len(task.moving)
    budget, optimizer = _GraphBudget(task, len(rates) - kept_graphs, limit_memory), Adam() if adam else None
    for k, step_rates in enumerate(rates):
        if budget.keeps(k):
            graphs = budget.record()
            values = switch_to_copies(task.moving)  # the graphs need theta_k unchanged
            step = Step(detached_sum(graphs, task.loss_scale), values, graphs)
        else:
            wanted = task.everything if k >= len(rates) - constant_gradients else task.moving
            found = gradient(task.support, wanted, task.loss_scale)[1]
            step = Step(found[:moved], constant_gradient=found[moved:] or None)
        if theta_0 is not None:
            add(step.gradient, torch._foreach_sub([tensor.data for tensor in task.moving], theta_0), proximal)
        if optimizer:
            step = Step(optimizer.direction(step.gradient))
        move(task.moving, step.gradient, step_rates, -1.0)
        yield step


class Adam:
    """Adam's update direction for one task (Kingma 2015, algorithm 1), with beta = (0.9, 0.999) and epsilon = 1e-8."""

    def __init__(self) -> None:
        self.step_count, self.moments = 0, dict[int, tuple[Tensor, Tensor]]()

    def direction(self, gradients: Gradient) -> Gradient:
        """Returns m / (sqrt(v) + epsilon) with bias-corrected moments m and v, and counts a step.

        Args:
            gradients: gradient of the step. Each call must have the same tensors in the same order.
        """
        self.step_count += 1
        result: Gradient = []
        for i, g in enumerate(gradients):
            if g is None:
                result.append(None)
                continue
            m, v = self.moments.setdefault(i, (torch.zeros_like(g), torch.zeros_like(g)))
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            result.append((m / (1 - 0.9**self.step_count)) / ((v / (1 - 0.999**self.step_count)).sqrt() + 1e-8))
        return result


def recorded_steps(second_order_steps: int, hvp: str, kept_graphs: int | str) -> int:
    """Returns the number of last inner steps that keep their graphs; for `kept_graphs` = "auto" an upper bound."""
    if hvp != "exact":
        return 0
    return min(kept_graphs, second_order_steps) if isinstance(kept_graphs, int) else second_order_steps


class _GraphBudget:
    """Decides which inner steps keep their graphs, and records them.

    Args:
        task: task of the inner loop.
        first: first step that may keep its graph.
        limited: stop keeping graphs when half of the memory that is free now is used. The graphs of the first step that
            is kept measure how much memory the graphs of a step need.
    """

    def __init__(self, task: Task, first: int, limited: bool) -> None:
        self.task, self.first = task, first
        self.bytes_left = _free_memory(task.moving[0].device) / 2 if limited else None
        self.bytes_per_step = 0  # not measured yet

    def keeps(self, k: int) -> bool:
        """Returns whether step k keeps its graphs."""
        return k >= self.first and (self.bytes_left is None or self.bytes_per_step <= self.bytes_left)

    def record(self) -> list[Gradient]:
        """Returns g_k with its graph for each part of the support loss, and takes their memory from the budget."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        measured = self.bytes_left is not None and not self.bytes_per_step
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor) if measured else nullcontext():
            graphs = [gradient_graph(part, self.task) for part in self.task.support]
        if self.bytes_left is not None:
            self.bytes_per_step = self.bytes_per_step or sum(sizes.values())
            self.bytes_left -= self.bytes_per_step
        return graphs


def _free_memory(device: torch.device) -> int:
    """Returns the memory that is free on a device, in bytes; on CUDA with torch's cached blocks."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    available: int = psutil.virtual_memory().available
    return available
