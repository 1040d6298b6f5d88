"""Gradients of a loss that is given in parts, and sums of such gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = list[Callable[[], Tensor]]
"""Parts of a loss, for example one per batch. A part returns a 0-d tensor; the loss is the sum of the parts."""


Gradient = list[Tensor | None]
"""One gradient per tensor; None stands for zero."""


Rates = Sequence[float | Tensor]
"""Inner learning rates of one step, one per tensor: a number, or elementwise rates in the shape of the tensor."""


def gradient(loss: Loss, wanted: list[Tensor], scale: float = 1.0) -> tuple[Tensor, Gradient]:
    """Computes a loss and its gradient, one part at a time.

    Args:
        loss: parts of the loss.
        wanted: tensors to differentiate with respect to.
        scale: factor of the loss in its backward pass. The gradient is unscaled.

    Returns:
        The loss (0-d, without graph) and its gradient for each tensor in `wanted`.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> gradient([lambda: x.square(), lambda: 2 * x], [x])
        (tensor(15.), [tensor(8.)])
    """
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
    """Adds factor * part to `total` in place. An entry of `total` that is None becomes the tensor of `part` itself."""
    pairs = [(t, p) for t, p in zip(total, part, strict=True) if t is not None and p is not None]
    if pairs:
        sums, parts = zip(*pairs, strict=True)
        torch._foreach_add_(list(sums), list(parts), alpha=factor)
    for i, (t, p) in enumerate(zip(total, part, strict=True)):
        if t is None and p is not None:
            total[i] = p if factor == 1.0 else p * factor


def distinct(gradients: Sequence[Tensor | None]) -> Gradient:
    """Makes gradients of autograd safe to change in place.

    autograd may return one tensor for two inputs, or an expanded tensor. Both are copied.
    """
    seen, result = set[int](), list[Tensor | None]()
    for g in gradients:
        result.append(g.clone() if g is not None and (id(g) in seen or 0 in g.stride()) else g)
        seen.add(id(g))
    return result


def detached_sum(graphs: list[Gradient], scale: float) -> Gradient:
    """Sums the gradients of all parts of a loss without their graphs, and unscales the sum.

    With a single part and scale 1 the result shares memory with it.
    """
    if len(graphs) == 1 and scale == 1.0:
        return [None if g is None else g.detach() for g in graphs[0]]
    total = no_gradients(graphs[0])
    for graph in graphs:
        add(total, [None if g is None else g.detach().clone() for g in graph])
    unscale(total, scale)
    return total


def no_gradients(tensors: Sequence[Tensor | None]) -> Gradient:
    """Returns a zero gradient: None for each tensor."""
    return [None] * len(tensors)


def unscale(total: Gradient, scale: float) -> None:
    """Divides a gradient by `scale` in place."""
    if scale != 1.0 and (some := [g for g in total if g is not None]):
        torch._foreach_div_(some, scale)
