"""One task of gradient-based meta-learning: the inner loop, gradients, and products with the support loss's Hessian.

Nothing here knows of text or transformers: a task is two losses, as functions of tensors that are changed in place. The
values move, not the tensors: while a task runs they live in memory of their own (`elsewhere`), and autograd's graphs,
which hold the tensors, read them at theta_k again once theta_k is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = list[Callable[[], Tensor]]
"""A loss in parts that add up to it, each a 0-d tensor computed anew from the task's tensors (say, one a batch)."""

Gradient = list[Tensor | None]
"""One entry a tensor; None is zero."""

Rates = Sequence[float | Tensor]
"""One inner learning rate a moving tensor: a number, or a tensor of its shape."""


@dataclass(frozen=True)
class Task:
    """What the inner loop moves, and by which loss; what the meta-gradient is taken of, and of which loss."""

    support: Loss
    query: Loss
    moving: list[Tensor]
    """The inner loop moves these, in place; they are put back. All tensors require gradients."""
    still: list[Tensor] = field(default_factory=list)
    """The inner loop does not move these, but the meta-gradient is wanted of them too."""
    loss_scale: float = 1.0
    """Factor on a loss before its backward pass, taken out of the gradient again; for float16."""

    @property
    def everything(self) -> list[Tensor]:
        """What the meta-gradient is taken of."""
        return self.moving + self.still


class Step(NamedTuple):
    """What is kept of inner step k."""

    gradient: Gradient  # g_k of the moving tensors, or what an inner optimiser made of it
    values: list[Tensor] | None = None  # theta_k, where the step's graph is kept
    graphs: list[Gradient] | None = None  # g_k with its graph, one a part of the loss
    still: Gradient | None = None  # the support loss's gradient of the still tensors, where it was asked for


class Swept(NamedTuple):
    """Query loss after adaptation (0-d), and gradients: of moving and still tensors, and of each log a_k."""

    loss: Tensor
    gradients: Gradient
    rate_gradients: list[Gradient]


def gradient(loss: Loss, wanted: list[Tensor], scale: float = 1.0) -> tuple[Tensor, Gradient]:
    """The value of a loss (0-d, no graph) and its gradient."""
    values, total = list[Tensor](), _nothing(wanted)
    for part in loss:
        with torch.enable_grad():
            result = part()
            scaled = result * scale if scale != 1.0 else result
        add(total, distinct(torch.autograd.grad(scaled, wanted, allow_unused=True)))
        values.append(result.detach())
    _unscale(total, scale)
    return torch.stack(values).sum(), total


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
        task: its moving tensors are moved; run it within `elsewhere`.
        rates: a_k for each moving tensor, for each step.
        kept_graphs: keep the graph of g_k in this many of the last steps.
        if_it_fits: keep no more graphs than half of the memory that is free now holds.
        still: give the gradient of the still tensors too in this many of the last steps.
        adam: take Adam's direction in place of g_k (no graphs).
        proximal: lambda, which adds lambda (theta_k - home) to g_k.
        home: theta_0, for the proximal term.
    """
    moved = len(task.moving)
    room, optimizer = _Room(task, len(rates) - kept_graphs, if_it_fits), Adam() if adam else None
    for k, step_rates in enumerate(rates):
        if room.for_step(k):
            graphs = room.record()
            values = _leave(task.moving)  # the graphs go on reading theta_k
            step = Step(_detached_sum(graphs, task.loss_scale), values, graphs)
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


def move(tensors: list[Tensor], direction: Gradient, rates: Rates, factor: float) -> None:
    """tensors += factor * rates * direction, in place; equal rates in a row go together."""
    triples = [(r, t.data, g) for r, t, g in zip(rates, tensors, direction, strict=True) if g is not None]
    for rate, run in groupby(triples, key=lambda triple: triple[0] if isinstance(triple[0], float) else None):
        each, values, steps = (list(column) for column in zip(*run, strict=True))
        if rate is None:
            torch._foreach_addcmul_(values, steps, each, value=factor)
        else:
            torch._foreach_add_(values, steps, alpha=factor * rate)


@contextmanager
def elsewhere(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The values of `tensors` live in a copy within the block; yields the originals, which are back after it."""
    home = _leave(tensors)
    try:
        yield home
    finally:
        put_back(tensors, home)


def put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Lets `tensors` have their values in the memory of `values`."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def _leave(tensors: list[Tensor]) -> list[Tensor]:
    # `.data` moves a tensor to other memory without a new version, so that graphs which hold it stay usable
    values = [tensor.data for tensor in tensors]
    put_back(tensors, [value.clone() for value in values])
    return values


# ------------------------------------------------------------------------------------- products with the Hessian
def record(part: Callable[[], Tensor], task: Task) -> Gradient:
    """The gradient of one part of the support loss, with its graph."""
    # Fused attention has no double backward: https://github.com/pytorch/pytorch/issues/116350
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return list(torch.autograd.grad(part() * task.loss_scale, task.moving, create_graph=True, allow_unused=True))


def add_exact_product(
    into: Gradient, factor: float, task: Task, u: Gradient, graphs: list[Gradient] | None = None, retain: bool = False
) -> None:
    """into += factor * H u by double backward, d <g_k, u> / d everything.

    Args:
        into: one entry for each of the task's `everything`.
        factor: of the product.
        task: at theta_k.
        u: one entry a moving tensor.
        graphs: the graphs of g_k that the inner loop kept; None records them again, one part at a time.
        retain: keep `graphs` for another product.
    """
    for number, part in enumerate(task.support):
        graph = record(part, task) if graphs is None else graphs[number]
        pairs = [(g, x) for g, x in zip(graph, u, strict=True) if x is not None and g is not None and g.requires_grad]
        if pairs:
            outputs, vectors = zip(*pairs, strict=True)
            product = torch.autograd.grad(outputs, task.everything, vectors, allow_unused=True, retain_graph=retain)
            add(into, distinct(product), factor / task.loss_scale)


def add_difference_product(
    into: Gradient, factor: float, task: Task, u: Gradient, here: Gradient | None = None, rates: Rates | None = None
) -> None:
    """into += factor * H a u by a difference of gradients: no graph of a gradient, so fused attention, little memory.

    The moving tensors go along a u and come back in place, but for rounding; `u` may be part of `into`.

    Args:
        into: one entry for each of the task's `everything`.
        factor: of the product.
        task: at theta_k.
        u: one entry a moving tensor.
        here: the gradient of everything at theta_k, for the one-sided difference (g(theta + e a u) - g(theta)) / e;
            None takes the central one, (g(theta + e a u) - g(theta - e a u)) / 2e, with e^2 in place of e in its error.
        rates: a, by default 1.
    """
    rates = [1.0] * len(u) if rates is None else rates
    norm = float(_norm(u, rates))
    if norm == 0.0:
        return
    central = here is None
    # In float32 the least error on a trained encoder: rounding weighs more below, curvature above.
    central_length, one_sided_length = (1e-5, 1e-7) if task.moving[0].dtype == torch.float64 else (3e-3, 1e-3)
    step = (central_length if central else one_sided_length) / norm

    def there() -> Gradient:
        return gradient(task.support, task.everything, task.loss_scale)[1]

    move(task.moving, u, rates, step)
    difference = there()
    if central:
        move(task.moving, u, rates, -2 * step)
    add(difference, there() if here is None else here, -1.0)  # of like sizes: nearly exact
    move(task.moving, u, rates, step if central else -step)
    add(into, difference, factor / (2 * step if central else step))


def _norm(u: Gradient, rates: Rates) -> Tensor:
    """|a u|, 0-d."""
    pairs = [(x, rate) for x, rate in zip(u, rates, strict=True) if x is not None]
    norms = [x.norm() * rate if isinstance(rate, float) else (x * rate).norm() for x, rate in pairs]
    return torch.stack(norms).norm() if norms else torch.zeros(())


# --------------------------------------------------------------------------------------------- sums of gradients
def add(total: Gradient, part: Sequence[Tensor | None], factor: float = 1.0) -> None:
    """total += factor * part; takes over the tensors of `part` where `total` has none."""
    pairs = [(t, p) for t, p in zip(total, part, strict=True) if t is not None and p is not None]
    if pairs:
        sums, parts = zip(*pairs, strict=True)
        torch._foreach_add_(list(sums), list(parts), alpha=factor)
    for i, (t, p) in enumerate(zip(total, part, strict=True)):
        if t is None and p is not None:
            total[i] = p if factor == 1.0 else p * factor


def distinct(gradients: Sequence[Tensor | None]) -> Gradient:
    """Gradients that may be changed in place: autograd may give two inputs the same tensor, or one that is expanded."""
    seen, result = set[int](), list[Tensor | None]()
    for g in gradients:
        result.append(g.clone() if g is not None and (id(g) in seen or 0 in g.stride()) else g)
        seen.add(id(g))
    return result


def _detached_sum(graphs: list[Gradient], scale: float) -> Gradient:
    """The gradient of all parts; of one part, the same memory."""
    if len(graphs) == 1 and scale == 1.0:
        return [None if g is None else g.detach() for g in graphs[0]]
    total = _nothing(graphs[0])
    for graph in graphs:
        add(total, [None if g is None else g.detach().clone() for g in graph])
    _unscale(total, scale)
    return total


def _nothing(tensors: Sequence[Tensor | None]) -> Gradient:
    return [None] * len(tensors)


def _unscale(total: Gradient, scale: float) -> None:
    if scale != 1.0 and (some := [g for g in total if g is not None]):
        torch._foreach_div_(some, scale)


# ---------------------------------------------------------------------------------------------- what may be kept
class _Room:
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
            graphs = [record(part, self.task) for part in self.task.support]
        if self.budget is not None:
            self.bytes = self.bytes or sum(sizes.values())
            self.budget -= self.bytes
        return graphs


def recorded_steps(second_order_steps: int, hvp: str, kept_graphs: int | str) -> int:
    """How many of the last inner steps record, and keep, their graphs; for "auto" the most that may."""
    if hvp != "exact":
        return 0
    return min(kept_graphs, second_order_steps) if isinstance(kept_graphs, int) else second_order_steps


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    return psutil.virtual_memory().available


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
