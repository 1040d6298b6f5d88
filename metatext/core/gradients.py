"""Gradients of a loss that is given in parts, and sums of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = list[Callable[[], Tensor]]
"""A loss in parts that add up to it, each a 0-d tensor computed anew from the task's tensors (say, one a batch)."""


Gradient = list[Tensor | None]
"""One entry a tensor; None is zero."""


Rates = Sequence[float | Tensor]
"""One inner learning rate a moving tensor: a number, or a tensor of its shape."""


def gradient(loss: Loss, wanted: list[Tensor], scale: float = 1.0) -> tuple[Tensor, Gradient]:
    """The value of a loss (0-d, no graph) and its gradient."""
    values, total = list[Tensor](), no_gradients(wanted)
    for part in loss:
        with torch.enable_grad():
            result = part()
            scaled = result * scale if scale != 1.0 else result
        add(total, distinct(torch.autograd.grad(scaled, wanted, allow_unused=True)))
        values.append(result.detach())
    unscale(total, scale)
    return torch.stack(values).sum(), total


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


def detached_sum(graphs: list[Gradient], scale: float) -> Gradient:
    """The gradient of all parts; of one part, the same memory."""
    if len(graphs) == 1 and scale == 1.0:
        return [None if g is None else g.detach() for g in graphs[0]]
    total = no_gradients(graphs[0])
    for graph in graphs:
        add(total, [None if g is None else g.detach().clone() for g in graph])
    unscale(total, scale)
    return total


def no_gradients(tensors: Sequence[Tensor | None]) -> Gradient:
    return [None] * len(tensors)


def unscale(total: Gradient, scale: float) -> None:
    if scale != 1.0 and (some := [g for g in total if g is not None]):
        torch._foreach_div_(some, scale)
