"""iMAML: the implicit meta-gradient at the end of a regularised inner loop (Rajeswaran 2019).

The inner loop minimises the support loss with a proximal term that keeps theta near the initialisation theta_0:

    L_S(theta) + lambda / 2 |theta - theta_0|^2                                     Rajeswaran 2019, eq. 3

At its minimum theta*, the implicit function theorem gives the meta-gradient

    d L_Q / d theta_0 = (I + H_S(theta*) / lambda)^-1 grad L_Q(theta*)              Rajeswaran 2019, eq. 6

It does not depend on the path to the minimum, so no inner step is kept. The linear system is solved by conjugate
gradient (algorithm 2), which needs Hessian-vector products only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates, add, gradient
from metatext.core.hessian_products import add_difference_product, add_exact_product, gradient_graph
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Task, TaskResult


@torch.no_grad()
def implicit_gradient(
    task: Task,
    rates: Sequence[Rates],
    proximal: float,
    *,
    hvp: str = "exact",
    cg_steps: int = 5,
    tolerance: float = 0.0,
) -> TaskResult:
    """Adapts to the support and computes the implicit meta-gradient of the query loss.

    The result is exact if the inner loop reaches its minimum and conjugate gradient the solution. Away from a minimum
    I + H_S / lambda may not be positive definite. Conjugate gradient then stops at the first direction of non-positive
    curvature.

    Args:
        task: losses and tensors at theta_0. The tensors have the same values afterwards.
        rates: a_k for each moving tensor, for each of the K inner steps.
        proximal: strength lambda of the proximal term.
        hvp: Hessian-vector product: "exact" (one graph for all products), "finite-difference" or "one-sided".
        cg_steps: maximum number of conjugate-gradient steps; the paper uses 5.
        tolerance: stop if the norm of the residual is at most this share of the norm of the right-hand side.

    Returns:
        The query loss at the end of the inner loop, and the meta-gradient.

    Example:
        With L_S = 0.5 theta^2, lambda = 1 and theta_0 = 4 the minimum is theta* = 2. With L_Q = 0.5 theta^2 the
        meta-gradient is theta* / 2 = 1.

        >>> theta = torch.tensor(4.0, requires_grad=True)
        >>> loss = lambda: 0.5 * theta.square()
        >>> result = implicit_gradient(Task(support=[loss], query=[loss], moving=[theta]), [[0.5]], proximal=1.0)
        >>> result.loss, result.gradients
        (tensor(2.), [tensor(1.)])
    """
    moved = len(task.moving)
    with in_scratch_memory(task.moving) as theta_0:
        for _ in inner_loop(task, rates, proximal=proximal, theta_0=theta_0):
            pass
        loss, v = gradient(task.query, task.everything, task.loss_scale)
        graphs = [gradient_graph(part, task) for part in task.support] if hvp == "exact" else None
        gradient_here = gradient(task.support, task.everything, task.loss_scale)[1] if hvp == "one-sided" else None

        def hessian_product(x: list[Tensor]) -> Gradient:
            """Returns H x / lambda for moving and constant tensors."""
            vector: Gradient = [*x]
            product: Gradient = [None] * len(task.everything)
            if graphs:
                add_exact_product(product, 1 / proximal, task, vector, graphs, retain=True)
            else:
                add_difference_product(product, 1 / proximal, task, vector, gradient_here)
            return product

        right_side = [torch.zeros_like(t) if g is None else g for g, t in zip(v[:moved], task.moving, strict=True)]
        solution, product = _conjugate_gradient(hessian_product, right_side, cg_steps, tolerance)
        constant_gradient = v[moved:]
        # theta* depends on the constant tensors too (implicit function theorem).
        add(constant_gradient, product[moved:], -1.0)
    return TaskResult(loss, [*solution, *constant_gradient], [])


def _conjugate_gradient(
    hessian_product: Callable[[list[Tensor]], Gradient], right_side: list[Tensor], steps: int, tolerance: float
) -> tuple[list[Tensor], Gradient]:
    """Solves (I + P) x = right_side, where P x is `hessian_product(x)`; starts from x = right_side.

    Returns:
        x for the moving tensors, and P x for moving and constant tensors.
    """
    moved, x = len(right_side), [tensor.clone() for tensor in right_side]
    # P x, updated by linearity. Copied, because a product may return its very argument.
    product_of_x: Gradient = [None if h is None else h.clone() for h in hessian_product(x)]
    residual: list[Tensor] = [
        -h if h is not None else torch.zeros_like(r) for h, r in zip(product_of_x[:moved], right_side, strict=True)
    ]
    direction, residual_square = residual, _dot(residual, residual)
    enough = tolerance**2 * _dot(right_side, right_side)
    for _ in range(steps):
        if residual_square <= enough:
            break
        product = hessian_product(direction)
        image = [d if h is None else d + h for d, h in zip(direction, product[:moved], strict=True)]  # (I + P) d
        curvature = _dot(direction, image)
        if curvature <= 0:  # not a minimum: lambda is too small, or the inner loop too short
            break
        alpha = residual_square / curvature
        torch._foreach_add_(x, direction, alpha=alpha)
        add(product_of_x, product, alpha)
        residual = list(torch._foreach_add(residual, image, alpha=-alpha))
        residual_square, previous_square = _dot(residual, residual), residual_square
        direction = list(torch._foreach_add(residual, direction, alpha=residual_square / previous_square))
    return x, product_of_x


def _dot(some: list[Tensor], other: list[Tensor]) -> float:
    """Returns the inner product over all tensors."""
    return float(sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(some, other, strict=True)))
