"""Cosine prototypes on centred features.

Features are centred on the support's centre and normalised to unit length: these are the directions of the texts. The
prototype of a class is the sum of the directions of its texts plus the prior of the class.

Centre and prototypes are made of the same few texts. With unequal numbers of texts a class, the noise that they share
favours the large classes: of 1 + 9 texts, noise would go to the second class nine times out of ten. Its expectation is
known, and is subtracted (as Chan 2009, "Scale adjustments for classifiers in high-dimensional, low sample size
settings", does for nearest centroids). With equal numbers it is the same for all classes, and zero.
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
    centre_variance: float  # expected squared distance of the centre from that of endless texts

    def __new__(cls, weight: Tensor, bias: Tensor, centre: Tensor, centre_variance: float) -> PrototypeLayer:
        layer = super().__new__(cls, weight, bias)
        layer.centre, layer.centre_variance = centre, centre_variance
        return layer

    def __getnewargs__(self) -> tuple[Tensor, Tensor, Tensor, float]:  # for copies and pickles
        return self.weight, self.bias, self.centre, self.centre_variance


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
        self.labels, self.ways, self._features = labels, ways, features
        counts = torch.bincount(labels, minlength=ways)
        present, self._counts = counts > 0, counts.clamp(min=1)
        sums = features.new_zeros(ways, features.shape[1]).index_add(0, labels, features)
        means = sums[present] / counts[present].unsqueeze(1)
        self.centre: Tensor = means.sum(0) / max(1, len(means))
        if centre_prior is not None:
            # The centre is as uncertain as that of a balanced support of classes * (harmonic mean of the counts) texts.
            texts = len(means) ** 2 / float((1 / counts[present]).sum()) if len(means) else 0.0
            self.centre = centre_prior.shrink(self.centre, texts)
        share = 0.0
        if unlabelled is not None:
            others = len(unlabelled)
            share = min(1.0, others / len(features)) if len(features) else others / (others + _CENTRE_PSEUDO_TEXTS)
            self.centre = self.centre.lerp(unlabelled.mean(0), share)
        residuals = (features - (sums / self._counts.unsqueeze(1))[labels]).detach()
        degrees_of_freedom = len(features) - len(means)
        self._variance = float(residuals.square().sum()) / degrees_of_freedom if degrees_of_freedom else 0.0
        self._labelled_share = (1 - share) / max(1, len(means))  # weight of each class mean in the centre
        self.centre_variance: float = self._labelled_share**2 * self._variance * float((1 / counts[present]).sum())
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
        return (features - self.centre) / self._distances(features)

    def cosines(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Cosines of features (m, hidden) to prototypes, (m, ways), less what shared noise adds on average."""
        cosines = self.directions_of(features) @ normalize(prototypes, dim=1).T
        return cosines - self._noise(prototypes) / self._distances(features).detach()

    def _distances(self, features: Tensor) -> Tensor:
        """Distances of features (m, hidden) from the centre, (m, 1), above the rounding errors."""
        distances: Tensor = (features - self.centre).norm(dim=1, keepdim=True).clamp(min=self._min_distance)
        return distances

    @torch.no_grad()
    def _noise(self, prototypes: Tensor) -> Tensor:
        """Expected product of a unit prototype and a text from the centre, (ways,), due to the noise of the support.

        With s the within-class variance, n_j the texts of class j, d their distances from the centre c, L_j the length
        of its prototype and b the weight of a class mean in c: (sum 1 / d) / L_j * (var(c) - b * s / n_j).
        """
        inverse_distances = 1 / self._distances(self._features).squeeze(1)
        sums = inverse_distances.new_zeros(self.ways).index_add(0, self.labels, inverse_distances)
        excess = self.centre_variance - self._labelled_share * self._variance / self._counts
        noise: Tensor = sums / prototypes.norm(dim=1).clamp(min=1e-4) * excess
        return noise

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
            probabilities = (scale * self.cosines(unlabelled, labelled + sums)).softmax(1)  # (m, ways)
            sums = probabilities.T @ directions * weight
        return sums

    def layer(self, class_priors: Tensor, scale: float) -> PrototypeLayer:
        """The prototypes as a linear layer on features: logits are about `scale` times the cosines.

        A linear layer cannot normalise the features, so all are taken to lie at the mean distance from the centre.
        """
        prototypes, factor = self.prototypes(class_priors), scale / self.radius
        weight = normalize(prototypes, dim=1) * factor
        bias = -weight @ self.centre - self._noise(prototypes) * factor
        return PrototypeLayer(weight, bias, self.centre, self.centre_variance)
