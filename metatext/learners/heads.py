"""Classification heads: how a task's linear layer starts, and how its gradient flows back to what it started from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metatext.errors import InputError


class LinearLayer(NamedTuple):
    """One task's classifier: logits = features @ weight.T + bias."""

    weight: Tensor  # (ways, hidden)
    bias: Tensor  # (ways,)

    def logits(self, features: Tensor) -> Tensor:
        """(n, hidden) -> (n, ways)."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


class PrototypeHead(nn.Module):
    """A head made from the class centroids c of the support, for any number of classes.

    w = 2 s c / d and b = -s |c|^2 / d (Triantafillou 2020, eq. 5-6, with a learned scale s; d is the hidden size, and
    features have norm sqrt(d)), so logits are -s / d times the squared distance to the centroids, up to a constant.
    """

    needs_centroids = True

    def __init__(self, scale: float = 32.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def start(self, classes: Sequence[str], centroids: Tensor | None) -> LinearLayer:
        """The layer before the first inner step; differentiable in `centroids` (ways, hidden) and the scale."""
        assert centroids is not None
        scale = self.log_scale.exp() / centroids.shape[1]
        return LinearLayer(2 * scale * centroids, -scale * centroids.square().sum(1))


class LinearHead(nn.Module):
    """A meta-learned head over a fixed list of class names; a task uses the rows of its own classes."""

    needs_centroids = False

    def __init__(self, classes: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        if len(set(classes)) < 2:
            raise InputError("head='linear' needs the class names: classes=[...], at least two")
        self.classes = list(classes)
        self.weight = nn.Parameter(torch.zeros(len(self.classes), hidden_size))
        self.bias = nn.Parameter(torch.zeros(len(self.classes)))

    def start(self, classes: Sequence[str], centroids: Tensor | None = None) -> LinearLayer:
        """The rows of `classes`.

        Raises:
            InputError: a class is not among those that the head was meta-trained on.
        """
        unknown = sorted(set(classes) - set(self.classes))
        if unknown:
            raise InputError(
                f"label {unknown[0]!r} is unknown to this learner, whose learned head knows {', '.join(self.classes)}; "
                "a learner with head='prototype' takes any labels"
            )
        rows = [self.classes.index(name) for name in classes]
        return LinearLayer(self.weight[rows], self.bias[rows])
