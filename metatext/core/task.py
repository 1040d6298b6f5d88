"""A task of gradient-based meta-learning: two losses, as functions of tensors that the inner loop moves in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from metatext.core.gradients import Gradient, Loss


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
