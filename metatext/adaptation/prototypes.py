"""Cosine prototypes, and how well they explain texts that they are made without.

A class's prototype is the sum of its texts' directions from the support's centre, and of what was known of the class
before they were seen. A text judged by a prototype that it is part of says nothing of new texts: here each is judged
by prototypes made without it (leave-one-out).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, one_hot

from metatext.learners.heads import LinearLayer

SCALES = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])
"""Of the cosines in the logits."""


_LOG_PRIOR = (-((SCALES / 4).log() ** 2) / (2 * 0.5**2)).log_softmax(0)
"""Log-normal about 4: before they are seen, texts are taken to be told apart moderately well (docs/results.md)."""


_CENTRE_PSEUDO_TEXTS = 4.0  # texts that what is known of the centre counts as (docs/results.md)


class LeaveOutFit(NamedTuple):
    """How well prototypes explain texts that they are made without."""

    likelihood: float  # mean of the log-likelihood, at the scale with the largest
    scale: float  # that one
    calibrated: float  # the scale that few texts and the prior leave: the largest likelihood is too sure of itself


class SourceCentre(NamedTuple):
    """The centre of other texts of the classes; it holds in the directions that part these, others differ by domain."""

    point: Tensor  # (hidden,)
    basis: Tensor  # of these directions, orthonormal rows, (rank, hidden)

    def towards(self, centre: Tensor, texts: float) -> Tensor:
        """Shrinks the centre towards the sources' centre with `_CENTRE_PSEUDO_TEXTS` pseudo-texts, within `basis`."""
        return centre + (self.point - centre) @ self.basis.T @ self.basis * _CENTRE_PSEUDO_TEXTS / (
            _CENTRE_PSEUDO_TEXTS + texts
        )


class CentredFeatures:
    """A support's features as directions from their centre, the mean of the class means; differentiable in them.

    Args:
        features: (n, hidden).
        labels: int64 (n,), at least one text of each class.
        ways: number of classes.
        middle: what is known of the centre before: of a few texts it lies by chance nearer to one class.
        unlabelled: features of further texts, (m, hidden): from as many as are labelled on, the centre is their mean.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        ways: int,
        middle: SourceCentre | None = None,
        unlabelled: Tensor | None = None,
    ) -> None:
        self.labels, self.ways = labels, ways
        counts = torch.bincount(labels, minlength=ways).unsqueeze(1)
        means = features.new_zeros(ways, features.shape[1]).index_add(0, labels, features) / counts
        self.centre = means.mean(0)
        if middle is not None:
            # a mean of class means is as uncertain as that of so many texts in equal numbers
            self.centre = middle.towards(self.centre, float(ways**2 / (1 / counts).sum()))
        if unlabelled is not None:
            self.centre = self.centre.lerp(unlabelled.mean(0), min(1.0, len(unlabelled) / len(features)))
        norms = features.detach().norm(dim=1)
        least = 1e-4 * float(norms.mean())  # nearer than this, texts are the same but for rounding
        distances = (features - self.centre).norm(dim=1)
        self.radius = max(float(distances.detach().mean()), least)
        self.directions = (features - self.centre) / distances.clamp(min=least).unsqueeze(1)  # (n, hidden)

    def prototypes(self, known: Tensor) -> Tensor:
        """Sums of directions, (ways, hidden); `known` is what was known of the classes before, likewise."""
        return known.index_add(0, self.labels, self.directions)

    def held_out(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of the texts to prototypes made without them, (n, ways), and which texts are alone.

        Of the class of a text that is alone nothing is known without it: its row says nothing.
        """
        sums = self.prototypes(known)
        others = sums[self.labels] - self.directions  # a text's own class without it
        own = (normalize(others, dim=1) * self.directions).sum(1)
        mine = one_hot(self.labels, self.ways).bool()
        cosines = torch.where(mine, own.unsqueeze(1), self.directions @ normalize(sums, dim=1).T)
        return cosines, others.norm(dim=1) < 1e-4

    def leave_one_out(self, known: Tensor) -> LeaveOutFit:
        """The likelihood of the texts under prototypes made without them; the calibrated scale is the posterior's mean.

        It is the mean of the scale's logarithm, with the texts' likelihood and a log-normal prior.
        """
        cosines, alone = self.held_out(known)
        logs = self._logs(cosines)
        logs[:, alone] = -math.log(self.ways)
        best = int(logs.mean(1).argmax())  # of (scales, n)
        posterior = (logs.sum(1) + _LOG_PRIOR).softmax(0)
        calibrated = (posterior * SCALES.log()).sum().exp()
        return LeaveOutFit(float(logs.mean(1)[best]), float(SCALES[best]), float(calibrated))

    def evidence(self, known: Tensor) -> float:
        """Nats by which the texts are more probable under what was known of the classes, alone, than by chance.

        The logarithm of the Bayes factor, with the prior of the scale.
        """
        logs = self._logs(self.directions @ normalize(known, dim=1).T)
        return float((logs.sum(1) + _LOG_PRIOR).logsumexp(0)) + len(self.labels) * math.log(self.ways)

    def _logs(self, cosines: Tensor) -> Tensor:
        """Log-likelihood of each text at each scale, (scales, n)."""
        return log_softmax(cosines * SCALES.view(-1, 1, 1), 2)[:, torch.arange(len(self.labels)), self.labels]

    def soft_k_means(self, known: Tensor, unlabelled: Tensor, scale: float, rounds: int = 5) -> Tensor:
        """Sums of the directions of unlabelled texts by how probable each class is for them, (ways, hidden).

        From the prototypes of the labelled texts (Ren 2018, section 3.1.1). All of them together weigh as much as the
        labelled texts, or less: none weighs more than a labelled one.

        Args:
            known: what was known of the classes before.
            unlabelled: features of the unlabelled texts, (m, hidden).
            scale: of the cosines in the logits.
            rounds: of assigning the texts and adding them up.
        """
        directions = normalize(unlabelled - self.centre, dim=1)
        weight = min(1.0, len(self.labels) / len(unlabelled))
        labelled = self.prototypes(known)
        sums = torch.zeros_like(labelled)
        for _ in range(rounds):
            probabilities = (scale * directions @ normalize(labelled + sums, dim=1).T).softmax(1)
            sums = probabilities.T @ directions * weight
        return sums

    def layer(self, known: Tensor, scale: float) -> LinearLayer:
        """Cosine prototypes as a linear layer on features; the features' distance from the centre is taken as equal."""
        weight = normalize(self.prototypes(known), dim=1) * (scale / self.radius)
        return LinearLayer(weight, -weight @ self.centre)
