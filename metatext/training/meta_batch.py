"""Means over the episodes of a meta-batch. Processes add up their episodes in a single all-reduce."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from metatext.training.loss_scale import all_finite


class MetaBatchResult(NamedTuple):
    """Means over the good episodes of a meta-batch. Loss and accuracy are NaN if there is none."""

    gradient: Tensor | None
    """Mean gradient, (all parameters,); None without a good episode."""
    loss: float
    """Mean query loss in nats."""
    accuracy: float
    """Share of correct query predictions."""
    bad: list[bool]
    """Whether each episode has a non-finite loss or gradient."""


class MetaBatch:
    """Adds up the gradients and query results of episodes. Bad episodes, with a non-finite value, are left out.

    Args:
        parameters: the trained parameters by name.
        episodes: number of episodes in the meta-batch.
        device: device of the sums.

    Example:
        >>> batch = MetaBatch({"w": torch.zeros(2)}, episodes=2, device=torch.device("cpu"))
        >>> batch.add(0, torch.tensor(0.5), torch.tensor(3), 4, [("w", torch.tensor([1.0, 2.0]))])
        >>> batch.add(1, torch.tensor(torch.nan), torch.tensor(0), 4, [])
        >>> batch.mean(Accelerator())
        MetaBatchResult(gradient=tensor([1., 2.]), loss=0.5, accuracy=0.75, bad=[False, True])
    """

    def __init__(self, parameters: Mapping[str, Tensor], episodes: int, device: torch.device) -> None:
        sizes = [parameter.numel() for parameter in parameters.values()]
        # One buffer needs one all-reduce. Loss, correct predictions and queries follow the gradients.
        self._buffer = torch.zeros(sum(sizes) + 3 + episodes, device=device)
        self._gradient, self._loss, self._correct, self._queries, self._bad = self._buffer.split(
            [sum(sizes), 1, 1, 1, episodes]
        )
        self._gradients = dict(zip(parameters, self._gradient.split(sizes), strict=True))

    def add(
        self, number: int, loss: Tensor, correct: Tensor, queries: int, gradients: Sequence[tuple[str, Tensor]]
    ) -> None:
        """Adds an episode to the sums, or marks it as bad.

        Args:
            number: number of the episode within the meta-batch, from 0.
            loss: mean query loss in nats, 0-d.
            correct: number of correct query predictions, 0-d.
            queries: number of queries.
            gradients: parameter names and gradients. The gradients of a repeated name are added up.
        """
        if not all_finite([loss, *(gradient for _, gradient in gradients)]):
            self._bad[number] = 1.0
            return
        for name, gradient in gradients:
            self._gradients[name].add_(gradient.flatten())
        self._loss += loss
        self._correct += correct
        self._queries += queries

    def mean(self, accelerator: Accelerator) -> MetaBatchResult:
        """Returns the means over the episodes of all processes."""
        buffer = accelerator.reduce(self._buffer, "sum")
        size = self._gradient.numel()
        loss, correct, queries, *flags = buffer[size:].tolist()
        bad = [bool(flag) for flag in flags]
        good = bad.count(False)
        if not good:
            return MetaBatchResult(None, math.nan, math.nan, bad)
        return MetaBatchResult(buffer[:size] / good, loss / good, correct / queries, bad)
