"""Input and output of the algorithms: a task (tensors and two losses) and its meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from metatext.core.gradients import Gradient, Loss


@dataclass(frozen=True)
class Task:
    """A task of gradient-based meta-learning.

    The losses are functions without arguments that read the tensors. The inner loop changes the values of the tensors
    in place (see `core.in_place`), so a loss that is called after a step sees the adapted values.
    """

    support: Loss
    """Loss that the inner loop minimises."""
    query: Loss
    """Loss after adaptation, whose gradient is the meta-gradient."""
    moving: list[Tensor]
    """Tensors that the inner loop updates. They must require gradients."""
    constant: list[Tensor] = field(default_factory=list)
    """Other tensors that need a meta-gradient. The inner loop does not update them. They must require gradients."""
    loss_scale: float = 1.0
    """Factor of a loss in its backward pass against underflow in float16. Gradients are unscaled."""

    @property
    def everything(self) -> list[Tensor]:
        """All tensors that need a meta-gradient: `moving`, then `constant`."""
        return self.moving + self.constant


class Step(NamedTuple):
    """Results of inner step k that the meta-gradient may need."""

    gradient: Gradient
    """Direction of the step for `Task.moving`: g_k plus the proximal term, or what Adam computes from it."""
    values: list[Tensor] | None = None
    """theta_k, if the graph of the step is kept."""
    graphs: list[Gradient] | None = None
    """g_k with its graph for each part of the support loss, if the graph is kept."""
    constant_gradient: Gradient | None = None
    """Gradient of the support loss for `Task.constant`, if it was asked for."""


class TaskResult(NamedTuple):
    """Query loss after adaptation, and meta-gradient of a task."""

    loss: Tensor
    """Query loss, 0-d, without graph."""
    gradients: Gradient
    """Meta-gradient, in the order of `Task.everything`."""
    rate_gradients: list[Gradient]
    """d L_Q / d log a_k for each inner step and tensor of `Task.moving`; empty if it was not asked for."""
