"""TRPO's update (Schulman 2015), which the MAML paper uses as the outer step of its reinforcement learning."""

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
    loss_and_divergence: Callable[[], tuple[Tensor, Tensor]],
    radius: float,
    *,
    damping: float = 1e-2,
    cg_steps: int = 10,
    halvings: int = 10,
) -> bool:
    """Moves the parameters along the natural gradient, within a limit on the divergence from the old policies.

    The first step length is that at which the quadratic model of the divergence reaches the limit. The length is
    halved until the divergence is within the limit and the loss is lower than before the step.

    Args:
        parameters: moved in place; unchanged if no length succeeds.
        gradient: gradient of the loss with respect to the parameters.
        metric: a divergence from the present policies, 0-d. Its Hessian F is the metric of the natural gradient.
        loss_and_divergence: the loss and the limited divergence at the current values of the parameters, both 0-d.
        radius: limit on the divergence, in its own unit.
        damping: added to the diagonal of F. It keeps the step small in directions on which F has no information.
        cg_steps: steps of conjugate gradient that solve for the natural gradient.
        halvings: number of step lengths to try.

    Returns:
        Whether the parameters were moved.
    """
    linear = Task([metric], [lambda: _dot(parameters, gradient)], parameters)
    direction = implicit_gradient(linear, [], damping, cg_steps=cg_steps).gradients  # d = (F / damping + I)^-1 g
    curvature = damping * (_dot(direction, gradient) - _dot(direction, direction))  # <d, F d>
    length = math.sqrt(2 * radius / max(float(curvature), 1e-20))  # the quadratic model's divergence is the radius here
    initial, (initial_loss, _) = [p.clone() for p in parameters], loss_and_divergence()
    for halving in range(halvings):
        move(parameters, direction, [length / 2**halving] * len(parameters), -1.0)
        loss, divergence = loss_and_divergence()
        if divergence <= radius and loss < initial_loss:  # false for NaN too, which overflowing policies give
            return True
        for parameter, value in zip(parameters, initial, strict=True):
            parameter.copy_(value)
    return False


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor:
    """Returns the inner product of two lists of tensors, 0-d; None counts as zero."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]).sum()
