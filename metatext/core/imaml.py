"""iMAML: the implicit meta-gradient at the end of an inner loop that is held near the initialisation.

The inner loop minimises L_S(theta) + lambda/2 |theta - theta_0|^2 (Rajeswaran 2019, eq. 3). At its minimum

    d L_Q / d theta_0 = (I + H_S / lambda)^-1 grad L_Q                              Rajeswaran 2019, eq. 6

whatever the way there, so nothing of the path is kept; the system is solved by conjugate gradient (algorithm 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates, add, gradient
from metatext.core.hessian_products import add_difference_product, add_exact_product, gradient_graph
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Swept, Task


@torch.no_grad()
def implicit_gradient(
    task: Task,
    rates: Sequence[Rates],
    proximal: float,
    *,
    hvp: str = "exact",
    cg_steps: int = 5,
    tolerance: float = 0.0,
) -> Swept:
    """Adapts, judges, and solves for the meta-gradient.

    Exact in so far as the inner loop reaches its minimum and conjugate gradient the solution; away from a minimum,
    where I + H / lambda may not be positive, conjugate gradient stops at the first direction that says so.

    Args:
        task: losses and tensors at theta_0; its tensors have the same values afterwards.
        rates: the rate of each moving tensor, for each inner step.
        proximal: lambda.
        hvp: "exact" (one graph, used for all products), "finite-difference" or "one-sided".
        cg_steps: most steps of conjugate gradient; the paper takes 5.
        tolerance: stop where the residual is below this share of the right side.
    """
    moved = len(task.moving)
    with in_scratch_memory(task.moving) as home:
        for _ in inner_loop(task, rates, proximal=proximal, home=home):
            pass
        loss, v = gradient(task.query, task.everything, task.loss_scale)
        graphs = [gradient_graph(part, task) for part in task.support] if hvp == "exact" else None
        here = gradient(task.support, task.everything, task.loss_scale)[1] if hvp == "one-sided" else None

        def product(x: list[Tensor]) -> Gradient:
            """H x / lambda, for moving and still tensors."""
            u: Gradient = [*x]
            found: Gradient = [None] * len(task.everything)
            if graphs:
                add_exact_product(found, 1 / proximal, task, u, graphs, retain=True)
            else:
                add_difference_product(found, 1 / proximal, task, u, here)
            return found

        right = [torch.zeros_like(t) if g is None else g for g, t in zip(v[:moved], task.moving, strict=True)]
        solution, times_solution = _conjugate_gradient(product, right, cg_steps, tolerance)
        still = v[moved:]
        add(still, times_solution[moved:], -1.0)  # what the still tensors do to theta* (implicit function theorem)
    return Swept(loss, [*solution, *still], [])


def _conjugate_gradient(
    product: Callable[[list[Tensor]], Gradient], right: list[Tensor], steps: int, tolerance: float
) -> tuple[list[Tensor], Gradient]:
    """Solves (I + P) x = right, from x = right (P = 0); returns x and P x, with the still tensors' part of it."""
    moved, x = len(right), [tensor.clone() for tensor in right]
    # P x, in memory of its own: a product may be its very argument
    sum_of_products: Gradient = [None if h is None else h.clone() for h in product(x)]  # kept up to date by linearity
    residual: list[Tensor] = [
        -h if h is not None else torch.zeros_like(r) for h, r in zip(sum_of_products[:moved], right, strict=True)
    ]
    direction, size, enough = residual, _dot(residual, residual), tolerance**2 * _dot(right, right)
    for _ in range(steps):
        if size <= enough:
            break
        step = product(direction)
        image = [d if h is None else d + h for d, h in zip(direction, step[:moved], strict=True)]  # (I + P) d
        curvature = _dot(direction, image)
        if curvature <= 0:  # not a minimum: lambda is too small, or the inner loop too short
            break
        alpha = size / curvature
        torch._foreach_add_(x, direction, alpha=alpha)
        add(sum_of_products, step, alpha)
        residual = list(torch._foreach_add(residual, image, alpha=-alpha))
        size, before = _dot(residual, residual), size
        direction = list(torch._foreach_add(residual, direction, alpha=size / before))
    return x, sum_of_products


def _dot(some: list[Tensor], other: list[Tensor]) -> float:
    return float(sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(some, other, strict=True)))
