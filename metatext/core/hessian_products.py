"""Hessian-vector products of the support loss: exact by double backward, or by finite differences of gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatext.core.gradients import Gradient, Rates, add, distinct, gradient
from metatext.core.in_place import move
from metatext.core.task import Task


def gradient_graph(part: Callable[[], Tensor], task: Task) -> Gradient:
    """Computes the gradient of one part of the support loss for `task.moving`, with its graph and still scaled."""
    # Fused attention has no double backward: https://github.com/pytorch/pytorch/issues/116350
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return list(torch.autograd.grad(part() * task.loss_scale, task.moving, create_graph=True, allow_unused=True))


def add_exact_product(
    total: Gradient,
    factor: float,
    task: Task,
    vector: Gradient,
    graphs: list[Gradient] | None = None,
    retain: bool = False,
) -> None:
    """Adds factor * H vector to `total` in place, by double backward: H vector is the gradient of <g_k, vector>.

    H holds the second derivatives of the support loss at theta_k. Its columns are the tensors of `task.moving`, its
    rows those of `task.everything`.

    Args:
        total: one entry for each tensor of `task.everything`.
        factor: factor of the product.
        task: its tensors have their values at theta_k.
        vector: one entry for each moving tensor.
        graphs: graphs of g_k that the inner loop kept, one for each part of the support loss. By default they are
            computed here, one part at a time.
        retain: keep `graphs` for another product.
    """
    for number, part in enumerate(task.support):
        graph = gradient_graph(part, task) if graphs is None else graphs[number]
        pairs = [
            (g, x) for g, x in zip(graph, vector, strict=True) if x is not None and g is not None and g.requires_grad
        ]
        if pairs:
            outputs, vectors = zip(*pairs, strict=True)
            product = torch.autograd.grad(outputs, task.everything, vectors, allow_unused=True, retain_graph=retain)
            add(total, distinct(product), factor / task.loss_scale)


def add_difference_product(
    total: Gradient,
    factor: float,
    task: Task,
    vector: Gradient,
    gradient_here: Gradient | None = None,
    rates: Rates | None = None,
) -> None:
    """Adds factor * H (rates * vector) to `total` in place, by a finite difference of gradients.

    No gradient has a graph, so fused attention works and less memory is needed than for the exact product. With
    u = rates * vector, step e and gradient g, the product H u is

        (g(theta + e u) - g(theta - e u)) / 2e      central difference, error O(e^2)
        (g(theta + e u) - g(theta)) / e             one-sided difference, error O(e), one pass fewer

    Args:
        total: one entry for each tensor of `task.everything`. It may share tensors with `vector`.
        factor: factor of the product.
        task: its tensors have their values at theta_k. They are moved along u and back, which restores them up to
            rounding.
        vector: one entry for each moving tensor.
        gradient_here: g(theta_k) for `task.everything`, for the one-sided difference. By default the difference is
            central.
        rates: one rate for each moving tensor, by default 1.
    """
    rates = [1.0] * len(vector) if rates is None else rates
    norm = float(_norm(vector, rates))
    if norm == 0.0:
        return
    central = gradient_here is None
    # Norms of e u. Those for float32 had the least error on a trained encoder: smaller ones raise the rounding error,
    # larger ones the truncation error.
    central_length, one_sided_length = (1e-5, 1e-7) if task.moving[0].dtype == torch.float64 else (3e-3, 1e-3)
    step = (central_length if central else one_sided_length) / norm

    def current_gradient() -> Gradient:
        return gradient(task.support, task.everything, task.loss_scale)[1]

    move(task.moving, vector, rates, step)
    difference = current_gradient()
    if central:
        move(task.moving, vector, rates, -2 * step)
    # Both gradients are of similar size, so this subtraction has almost no rounding error.
    add(difference, current_gradient() if gradient_here is None else gradient_here, -1.0)
    move(task.moving, vector, rates, step if central else -step)
    add(total, difference, factor / (2 * step if central else step))


def _norm(vector: Gradient, rates: Rates) -> Tensor:
    """Returns the Euclidean norm of rates * vector over all tensors, 0-d."""
    pairs = [(x, rate) for x, rate in zip(vector, rates, strict=True) if x is not None]
    norms = [x.norm() * rate if isinstance(rate, float) else (x * rate).norm() for x, rate in pairs]
    return torch.stack(norms).norm() if norms else torch.zeros(())
