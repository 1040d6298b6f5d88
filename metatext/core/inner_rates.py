"""Learned inner learning rates: one per layer and step (Antoniou 2019), or one per parameter (Meta-SGD, Li 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates


@dataclass(frozen=True)
class InnerRates:
    """Maps logarithms of learning rates to the rates of the tensors that the inner loop moves.

    The logarithms are either a matrix (layer groups, inner steps), or a vector with one entry per parameter that holds
    for all steps.

    Attributes:
        groups: row of each moving tensor in the matrix.
        shapes: for the vector: shape of each moving tensor, or () for a tensor with a single rate.
        table: index of the word embeddings among the moving tensors, -1 if they do not move. A task moves some of
            their rows only.

    Example:
        >>> rates = InnerRates(groups=[0, 0, 1], shapes=[torch.Size()] * 3)
        >>> logs = rates.start(0.5, steps=2, per_parameter=False)
        >>> logs.shape, rates.of_steps(logs, steps=2, rows=None)
        (torch.Size([2, 2]), [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    """

    groups: list[int]
    shapes: list[torch.Size]
    table: int = -1

    def start(self, rate: float, steps: int, per_parameter: bool) -> Tensor:
        """Returns the logarithms of equal rates: a vector if `per_parameter`, else a matrix for `steps` steps."""
        shape = (sum(map(math.prod, self.shapes)),) if per_parameter else (max(self.groups, default=-1) + 1, steps)
        return torch.full(shape, math.log(rate))

    def of_steps(self, logs: Tensor, steps: int, rows: Tensor | None) -> list[Rates]:
        """Returns the rate a_k of each moving tensor for each step.

        Args:
            logs: logarithms of the rates, matrix or vector.
            steps: number of steps. Steps beyond the matrix get the rates of its last column.
            rows: ids of the word embeddings that the task moves, int64 (rows,); None if it moves all.
        """
        if logs.ndim == 1:
            each = [part if part.ndim else float(part) for part in self._split(logs.exp(), rows)]
            return [each] * steps
        columns = logs.exp().T.tolist()
        return [[columns[min(k, len(columns) - 1)][group] for group in self.groups] for k in range(steps)]

    def gradient(self, logs: Tensor, rate_gradients: Sequence[Gradient], rows: Tensor | None) -> Tensor:
        """Sums the gradients of log a_k into the gradient of `logs`.

        Args:
            logs: logarithms of the rates, matrix or vector.
            rate_gradients: gradient of log a_k for each step and moving tensor.
            rows: ids of the word embeddings that the task moves, int64 (rows,); None if it moves all.
        """
        result = torch.zeros_like(logs)
        parts = self._split(result, None) if logs.ndim == 1 else []
        for k, step in enumerate(rate_gradients):
            for i, rate_gradient in enumerate(step):
                if rate_gradient is None:
                    continue
                if logs.ndim == 2:
                    result[self.groups[i], k] += rate_gradient
                elif i == self.table and rows is not None:
                    parts[i].index_add_(0, rows, rate_gradient)
                else:
                    parts[i] += rate_gradient
        return result

    def _split(self, vector: Tensor, rows: Tensor | None) -> list[Tensor]:
        """Returns the entries of a vector for each moving tensor, as views; of the word embeddings a copy of `rows`."""
        parts = vector.split([math.prod(shape) for shape in self.shapes])
        views = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        if rows is not None and self.table >= 0:
            views[self.table] = views[self.table][rows]
        return views
