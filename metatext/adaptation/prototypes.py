"""Cosine prototypes on centred features.

Features are centred on the support's centre and normalised to unit length: these are the directions of the texts. The
prototype of a class is the sum of the directions of its texts plus the prior of the class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metatext.learners.heads import LinearLayer

_CENTRE_PSEUDO_TEXTS = 4.0  # weight of the prior of the centre, in texts (docs/ablations.md)


class CentrePrior(NamedTuple):
    """A prior of the support's centre. The centre of a few texts is uncertain and lies nearer to one class by chance.

    Only the directions in which the classes differ carry over from the sources or the names. In all others the domains
    differ.
    """

    point: Tensor
    """Where the centre is expected, (hidden,)."""
    basis: Tensor
    """Orthonormal rows that span the differences between the classes, (rank, hidden)."""

    @classmethod
    def between(cls, directions: Tensor, point: Tensor) -> CentrePrior:
        """The prior at `point` in the span of the differences between `directions`, (classes, hidden)."""
        _, singular_values, basis = torch.linalg.svd(directions - directions.mean(0), full_matrices=False)
        return cls(point, basis[singular_values > 1e-3 * singular_values[0]])

    def shrink(self, centre: Tensor, texts: float) -> Tensor:
        """Shrinks the centre of `texts` texts towards `point` with `_CENTRE_PSEUDO_TEXTS` pseudo-texts in `basis`."""
        return centre + (self.point - centre) @ self.basis.T @ self.basis * _CENTRE_PSEUDO_TEXTS / (
            _CENTRE_PSEUDO_TEXTS + texts
        )


class PrototypeLayer(LinearLayer):
    """Linear layer of prototypes, with the point that they are measured from."""

    centre: Tensor  # (hidden,)

    def __new__(cls, weight: Tensor, bias: Tensor, centre: Tensor) -> PrototypeLayer:
        layer = super().__new__(cls, weight, bias)
        layer.centre = centre
        return layer


class CentredFeatures:
    """Features of a support as unit directions from their centre, the mean of the class means.

    The directions are differentiable in the features. A class may have no texts; its prototype is then its prior.
    Without any text the centre is that of its prior, or the origin.

    Args:
        features: float (n, hidden).
        labels: int64 (n,).
        ways: number of classes.
        centre_prior: prior of the centre.
        unlabelled: features of further texts, (m, hidden). They pull the centre towards their mean; with m >= n > 0
            their mean is the centre. Without labelled texts, `_CENTRE_PSEUDO_TEXTS` pseudo-texts hold it back.

    Example:
        >>> features = torch.tensor([[4.0, 1.0], [4.0, 3.0], [0.0, 1.0], [0.0, 3.0]])
        >>> space = CentredFeatures(features, torch.tensor([0, 0, 1, 1]), ways=2)
        >>> space.centre
        tensor([2., 2.])
        >>> no_priors = torch.zeros(2, 2)
        >>> space.layer(no_priors, scale=4.0).logits(features).argmax(1)
        tensor([0, 0, 1, 1])
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        ways: int,
        centre_prior: CentrePrior | None = None,
        unlabelled: Tensor | None = None,
    ) -> None:
        self.labels, self.ways = labels, ways
        counts = torch.bincount(labels, minlength=ways)
        present = counts > 0
        sums = features.new_zeros(ways, features.shape[1]).index_add(0, labels, features)
        means = sums[present] / counts[present].unsqueeze(1)
        self.centre: Tensor = means.sum(0) / max(1, len(means))
        if centre_prior is not None:
            # The centre is as uncertain as that of a balanced support of classes * (harmonic mean of the counts) texts.
            texts = len(means) ** 2 / float((1 / counts[present]).sum()) if len(means) else 0.0
            self.centre = centre_prior.shrink(self.centre, texts)
        if unlabelled is not None:
            others = len(unlabelled)
            share = min(1.0, others / len(features)) if len(features) else others / (others + _CENTRE_PSEUDO_TEXTS)
            self.centre = self.centre.lerp(unlabelled.mean(0), share)
        norm = features.shape[1] ** 0.5  # that of the features of a learner
        self._min_distance = 1e-4 * norm  # smaller distances are rounding errors
        located = features.detach() if len(features) or unlabelled is None else unlabelled
        pseudo_texts = 0.0 if len(features) else _CENTRE_PSEUDO_TEXTS  # few unlabelled texts say little of distances
        distances = (located - self.centre).detach().norm(dim=1)
        radius = float((distances.sum() + pseudo_texts * norm) / (len(distances) + pseudo_texts))
        self.radius = max(radius, self._min_distance)
        self.directions = self.directions_of(features)  # (n, hidden)

    def directions_of(self, features: Tensor) -> Tensor:
        """Unit directions of features (m, hidden) from the centre, (m, hidden)."""
        centred = features - self.centre
        distances: Tensor = centred.norm(dim=1, keepdim=True).clamp(min=self._min_distance)
        return centred / distances

    def prototypes(self, class_priors: Tensor) -> Tensor:
        """Sums of the class priors, (ways, hidden), and the directions of each class's texts; (ways, hidden)."""
        return class_priors.index_add(0, self.labels, self.directions)

    def soft_k_means(self, class_priors: Tensor, unlabelled: Tensor, scale: float, rounds: int = 5) -> Tensor:
        """What unlabelled texts add to the prototypes, by soft k-means (Ren 2018, section 3.1.1).

        The clusters start at the prototypes of the labelled texts. Each unlabelled text weighs min(1, n / m), so that m
        unlabelled texts never outweigh n labelled ones. Without labelled texts, n is the number of classes.

        Args:
            class_priors: (ways, hidden).
            unlabelled: features of the unlabelled texts, (m, hidden).
            scale: applied to the cosines before the softmax over the classes.
            rounds: iterations.

        Returns:
            Sums of the texts' directions, weighted by the probability of each class, (ways, hidden).
        """
        directions = self.directions_of(unlabelled)
        weight = min(1.0, (len(self.labels) or self.ways) / len(unlabelled))
        labelled = self.prototypes(class_priors)
        sums = torch.zeros_like(labelled)
        for _ in range(rounds):
            probabilities = (scale * directions @ normalize(labelled + sums, dim=1).T).softmax(1)  # (m, ways)
            sums = probabilities.T @ directions * weight
        return sums

    def layer(self, class_priors: Tensor, scale: float) -> PrototypeLayer:
        """The prototypes as a linear layer on features: logits are about `scale` times the cosines.

        A linear layer cannot normalise the features, so all are taken to lie at the mean distance from the centre.
        """
        weight = normalize(self.prototypes(class_priors), dim=1) * (scale / self.radius)
        return PrototypeLayer(weight, -weight @ self.centre, self.centre)
