"""Cosine prototypes and their leave-one-out likelihood.

Features are centred on the support's centre and normalised to unit length: these are the directions of the texts. The
prototype of a class is the sum of the directions of its texts plus the prior of the class. A text always fits a
prototype that contains it, so every text is scored by prototypes made without it (leave-one-out).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, one_hot

from metatext.learners.heads import LinearLayer

SCALES = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])
"""Grid of scales applied to the cosine similarities before the softmax."""

_LOG_PRIOR = (-((SCALES / 4).log() ** 2) / (2 * 0.5**2)).log_softmax(0)
"""Log prior of each scale: log-normal with median 4 and sigma 0.5, normalised over the grid (docs/ablations.md)."""

_CENTRE_PSEUDO_TEXTS = 4.0  # weight of the sources' centre, in texts (docs/ablations.md)


class LeaveOneOutFit(NamedTuple):
    """How well prototypes explain texts that they are made without."""

    log_likelihood: float
    """Mean log-likelihood of a text, in nats, at `scale`."""
    scale: float
    """The maximum-likelihood scale."""
    calibrated_scale: float
    """The posterior mean of the scale; with few texts the maximum-likelihood scale is overconfident."""


class SourceCentre(NamedTuple):
    """The centre of the same classes in the sources, as a prior of the support's centre.

    Only the directions in which the classes differ carry over. In all others the domains differ.
    """

    point: Tensor
    """Mean of the source classes' centroids, (hidden,)."""
    basis: Tensor
    """Orthonormal rows that span the differences between the source classes, (rank, hidden)."""

    def towards(self, centre: Tensor, texts: float) -> Tensor:
        """Shrinks the centre of `texts` texts towards `point` with `_CENTRE_PSEUDO_TEXTS` pseudo-texts in `basis`."""
        return centre + (self.point - centre) @ self.basis.T @ self.basis * _CENTRE_PSEUDO_TEXTS / (
            _CENTRE_PSEUDO_TEXTS + texts
        )


class CentredFeatures:
    """Features of a support as unit directions from their centre, the mean of the class means.

    The directions are differentiable in the features.

    Args:
        features: float (n, hidden).
        labels: int64 (n,), at least one text of each class.
        ways: number of classes.
        source_centre: prior of the centre. The centre of a few texts is uncertain and lies nearer to one class by
            chance.
        unlabelled: features of further texts, (m, hidden). They pull the centre towards their mean; with m >= n their
            mean is the centre.

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
        source_centre: SourceCentre | None = None,
        unlabelled: Tensor | None = None,
    ) -> None:
        self.labels, self.ways = labels, ways
        counts = torch.bincount(labels, minlength=ways).unsqueeze(1)
        means = features.new_zeros(ways, features.shape[1]).index_add(0, labels, features) / counts
        self.centre = means.mean(0)
        if source_centre is not None:
            # The centre is as uncertain as that of a balanced support of ways * (harmonic mean of the counts) texts.
            self.centre = source_centre.towards(self.centre, float(ways**2 / (1 / counts).sum()))
        if unlabelled is not None:
            self.centre = self.centre.lerp(unlabelled.mean(0), min(1.0, len(unlabelled) / len(features)))
        norms = features.detach().norm(dim=1)
        min_distance = 1e-4 * float(norms.mean())  # smaller distances are rounding errors
        distances = (features - self.centre).norm(dim=1)
        self.radius = max(float(distances.detach().mean()), min_distance)
        self.directions = (features - self.centre) / distances.clamp(min=min_distance).unsqueeze(1)  # (n, hidden)

    def prototypes(self, class_priors: Tensor) -> Tensor:
        """Sums of the class priors, (ways, hidden), and the directions of each class's texts; (ways, hidden)."""
        return class_priors.index_add(0, self.labels, self.directions)

    def leave_one_out_cosines(self, class_priors: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of each text to the prototypes made without it.

        Returns:
            The cosines, (n, ways), and a mask, bool (n,), of the single texts: the only texts of classes without a
            prior. Without them their class has no prototype, so their rows have no meaning.
        """
        sums = self.prototypes(class_priors)
        own_sums = sums[self.labels] - self.directions  # (n, hidden), of the text's class without the text
        own_cosines = (normalize(own_sums, dim=1) * self.directions).sum(1)
        is_own = one_hot(self.labels, self.ways).bool()
        cosines = torch.where(is_own, own_cosines.unsqueeze(1), self.directions @ normalize(sums, dim=1).T)
        return cosines, own_sums.norm(dim=1) < 1e-4

    def leave_one_out(self, class_priors: Tensor) -> LeaveOneOutFit:
        """Fits the scale of the leave-one-out cosines.

        The only text of a class without a prior counts as chance, log(1 / ways). The calibrated scale is the
        exponential of the posterior mean of log(scale).
        """
        cosines, single_texts = self.leave_one_out_cosines(class_priors)
        log_likelihoods = self._log_likelihoods(cosines)  # (scales, n)
        log_likelihoods[:, single_texts] = -math.log(self.ways)
        best = int(log_likelihoods.mean(1).argmax())
        posterior = (log_likelihoods.sum(1) + _LOG_PRIOR).softmax(0)
        calibrated_scale = (posterior * SCALES.log()).sum().exp()
        return LeaveOneOutFit(float(log_likelihoods.mean(1)[best]), float(SCALES[best]), float(calibrated_scale))

    def evidence(self, class_priors: Tensor) -> float:
        """Log Bayes factor (nats) of the class priors against chance.

        The prototypes are the class priors alone, without the texts. The scale is integrated out over its prior.
        """
        log_likelihoods = self._log_likelihoods(self.directions @ normalize(class_priors, dim=1).T)
        log_marginal = float((log_likelihoods.sum(1) + _LOG_PRIOR).logsumexp(0))
        return log_marginal + len(self.labels) * math.log(self.ways)

    def _log_likelihoods(self, cosines: Tensor) -> Tensor:
        """Log-likelihood of each text's label at each scale, (scales, n), from cosines (n, ways)."""
        return log_softmax(cosines * SCALES.view(-1, 1, 1), 2)[:, torch.arange(len(self.labels)), self.labels]

    def soft_k_means(self, class_priors: Tensor, unlabelled: Tensor, scale: float, rounds: int = 5) -> Tensor:
        """What unlabelled texts add to the prototypes, by soft k-means (Ren 2018, section 3.1.1).

        The clusters start at the prototypes of the labelled texts. Each unlabelled text weighs min(1, n / m), so that m
        unlabelled texts never outweigh n labelled ones.

        Args:
            class_priors: (ways, hidden).
            unlabelled: features of the unlabelled texts, (m, hidden).
            scale: applied to the cosines before the softmax over the classes.
            rounds: iterations.

        Returns:
            Sums of the texts' directions, weighted by the probability of each class, (ways, hidden).
        """
        directions = normalize(unlabelled - self.centre, dim=1)
        weight = min(1.0, len(self.labels) / len(unlabelled))
        labelled = self.prototypes(class_priors)
        sums = torch.zeros_like(labelled)
        for _ in range(rounds):
            probabilities = (scale * directions @ normalize(labelled + sums, dim=1).T).softmax(1)  # (m, ways)
            sums = probabilities.T @ directions * weight
        return sums

    def layer(self, class_priors: Tensor, scale: float) -> LinearLayer:
        """The prototypes as a linear layer on features: logits are about `scale` times the cosines.

        A linear layer cannot normalise the features, so all are taken to lie at the mean distance from the centre.
        """
        weight = normalize(self.prototypes(class_priors), dim=1) * (scale / self.radius)
        return LinearLayer(weight, -weight @ self.centre)
