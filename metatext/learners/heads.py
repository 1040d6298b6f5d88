"""Classification heads. A head makes the initial linear layer of each task.

The layer is differentiable in the parameters of the head and in the class centroids, so the meta-gradient reaches both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metatext.errors import InputError


class LinearLayer(NamedTuple):
    """Linear classifier of one task: logits = features @ weight.T + bias."""

    weight: Tensor  # (ways, hidden)
    bias: Tensor  # (ways,)

    def logits(self, features: Tensor) -> Tensor:
        """Maps features (n, hidden) to logits (n, ways)."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


class PrototypeHead(nn.Module):
    """Head built from the class centroids of the support, for any number of classes.

    A class with centroid c has weight 2 s c / d and bias -s |c|^2 / d (Triantafillou 2020, eq. 5-6). The scale s is
    meta-learned; d is the hidden size. Up to a constant, a logit is -s / d times the squared distance from the feature
    to the centroid. The features have norm sqrt(d).

    Args:
        scale: initial value of s.

    Example:
        >>> layer = PrototypeHead(scale=4.0).start(["a", "b"], torch.tensor([[1.0, 0.0], [1.0, -2.0]]))
        >>> layer.bias.tolist()
        [-2.0, -10.0]
    """

    needs_centroids = True

    def __init__(self, scale: float = 32.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def start(self, classes: Sequence[str], centroids: Tensor | None) -> LinearLayer:
        """Returns the layer before the first inner step.

        Args:
            classes: names of the classes; not used.
            centroids: mean support feature of each class, (ways, hidden).
        """
        assert centroids is not None
        scale = self.log_scale.exp() / centroids.shape[1]
        return LinearLayer(2 * scale * centroids, -scale * centroids.square().sum(1))


class LinearHead(nn.Module):
    """Meta-learned head over a fixed list of classes. A task uses the rows of its own classes.

    Args:
        classes: names of all classes, at least two.
        hidden_size: dimension of the features.

    Raises:
        InputError: fewer than two class names.
    """

    needs_centroids = False

    def __init__(self, classes: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        if len(set(classes)) < 2:
            raise InputError("head='linear' needs the class names: classes=[...], at least two")
        self.classes = list(classes)
        self.weight = nn.Parameter(torch.zeros(len(self.classes), hidden_size))
        self.bias = nn.Parameter(torch.zeros(len(self.classes)))

    def start(self, classes: Sequence[str], centroids: Tensor | None = None) -> LinearLayer:
        """Returns the rows of `classes`.

        Args:
            classes: names of the classes of the task, in their order.
            centroids: not used.

        Raises:
            InputError: the head does not know a class.
        """
        unknown = sorted(set(classes) - set(self.classes))
        if unknown:
            raise InputError(
                f"label {unknown[0]!r} is unknown to this learner, whose learned head knows {', '.join(self.classes)}; "
                "a learner with head='prototype' takes any labels"
            )
        rows = [self.classes.index(name) for name in classes]
        return LinearLayer(self.weight[rows], self.bias[rows])


def break_ties(layer: LinearLayer, tolerance: float = 1e-3) -> LinearLayer:
    """Breaks ties deterministically in favour of the first class.

    Classes with the same support have the same logits up to rounding errors, which depend on the batch.
    """
    weight, bias = layer.weight.clone(), layer.bias.clone()
    limit, margin = tolerance * weight.abs().max(), 1e-5 * bias.abs().max().clamp(min=1.0)
    for row in range(1, len(weight)):
        distance = (weight[:row] - weight[row]).abs().amax(1)
        twin = int(distance.argmin())
        if distance[twin] <= limit:
            weight[row], bias[row] = weight[twin], bias[twin] - margin
    return LinearLayer(weight, bias)
