"""Products of the support loss's Hessian with a vector, exact or by a difference of gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatext.core.gradients import Gradient, Rates, add, distinct, gradient
from metatext.core.in_place import move
from metatext.core.task import Task


def gradient_graph(part: Callable[[], Tensor], task: Task) -> Gradient:
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
        graph = gradient_graph(part, task) if graphs is None else graphs[number]
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
