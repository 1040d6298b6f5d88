"""An outer step that changes the policies by a limited amount: TRPO (Schulman 2015), as outside in the MAML paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatext.core.imaml import implicit_gradient
from metatext.core.in_place import move
from metatext.core.task import Task


@torch.no_grad()
def trust_region_step(
    parameters: list[Tensor],
    gradient: list[Tensor],
    metric: Callable[[], Tensor],
    judge: Callable[[], tuple[Tensor, Tensor]],
    radius: float,
    *,
    damping: float = 1e-2,
    cg_steps: int = 10,
    halvings: int = 10,
) -> bool:
    """Moves the parameters along the natural gradient, at most so far that the policies' divergence is `radius`.

    Args:
        parameters: moved in place; left as they are if no length will do.
        gradient: of the loss.
        metric: a divergence from the policies as they are, whose Hessian F is the metric of the natural gradient.
        judge: the loss, and the divergence that is limited, at the parameters' present values.
        radius: most divergence.
        damping: added to F, so that directions in which the sampled states tell nothing stay small.
        cg_steps: steps of conjugate gradient on F.
        halvings: lengths to try.

    Returns:
        Whether a step was taken.
    """
    linear = Task([metric], [lambda: _dot(parameters, gradient)], parameters)
    direction = implicit_gradient(linear, [], damping, cg_steps=cg_steps).gradients  # d = (F / damping + I)^-1 g
    curvature = damping * (_dot(direction, gradient) - _dot(direction, direction))  # <d, F d>
    length = math.sqrt(2 * radius / max(float(curvature), 1e-20))  # to where the quadratic model has the radius
    home, (loss_here, _) = [p.clone() for p in parameters], judge()
    for halving in range(halvings):
        move(parameters, direction, [length / 2**halving] * len(parameters), -1.0)
        loss, divergence = judge()
        if divergence <= radius and loss < loss_here:  # also false for NaN, where a policy went out of its range
            return True
        for parameter, value in zip(parameters, home, strict=True):
            parameter.copy_(value)
    return False


def _dot(some: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Tensor:
    return torch.stack(
        [(a * b).sum() for a, b in zip(some, other, strict=True) if a is not None and b is not None]
    ).sum()
