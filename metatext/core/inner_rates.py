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
    """How a vector or matrix of logarithms stands for the rates of the tensors that the inner loop moves.

    Attributes:
        groups: for each moving tensor the row in a matrix (layer groups, steps).
        shapes: of each moving tensor, () where it has one rate; together the entries of a vector, if it is one.
        table: which of them is the table of word embeddings, of which a task has some rows only; -1 for none.
    """

    groups: list[int]
    shapes: list[torch.Size]
    table: int = -1

    def start(self, rate: float, steps: int, per_parameter: bool) -> Tensor:
        """Logarithms of equal rates."""
        shape = (sum(map(math.prod, self.shapes)),) if per_parameter else (max(self.groups, default=-1) + 1, steps)
        return torch.full(shape, math.log(rate))

    def of_steps(self, logs: Tensor, steps: int, rows: Tensor | None) -> list[Rates]:
        """a_k for each moving tensor, for each of `steps`; those beyond the matrix have the last column's rates."""
        if logs.ndim == 1:
            each = [part if part.ndim else float(part) for part in self._split(logs.exp(), rows)]
            return [each] * steps
        columns = logs.exp().T.tolist()
        return [[columns[min(k, len(columns) - 1)][group] for group in self.groups] for k in range(steps)]

    def gradient(self, logs: Tensor, slopes: Sequence[Gradient], rows: Tensor | None) -> Tensor:
        """From the gradient of each moving tensor's log a_k, step by step, to that of `logs`."""
        result = torch.zeros_like(logs)
        parts = self._split(result, None) if logs.ndim == 1 else []
        for k, step in enumerate(slopes):
            for i, slope in enumerate(step):
                if slope is None:
                    continue
                if logs.ndim == 2:
                    result[self.groups[i], k] += slope
                elif i == self.table and rows is not None:
                    parts[i].index_add_(0, rows, slope)
                else:
                    parts[i] += slope
        return result

    def _split(self, vector: Tensor, rows: Tensor | None) -> list[Tensor]:
        parts = vector.split([math.prod(shape) for shape in self.shapes])
        views = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        if rows is not None and self.table >= 0:
            views[self.table] = views[self.table][rows]
        return views
