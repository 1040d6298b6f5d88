"""The held-out likelihood of cosine prototypes.

A text always fits a prototype that contains it, so the texts are scored by stratified k-fold cross-validation: a fold
holds out one text of each class, or an equal part of it if it has more than ten. Prototypes and centre are made of the
other folds. Leaving out a single text would not do: with the text in the centre, random labels look far better than
chance, and without it, far worse.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from metatext.adaptation.prototypes import CentredFeatures, CentrePrior

SCALES = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])
"""Grid of scales applied to the cosine similarities before the softmax."""

_PRIOR_SCALE = 6.0  # median of the prior of the scale
_NAMES_SCALE = 12.0  # calibrated scale without labelled texts: cosines to names are smaller (docs/ablations.md)
_LOG_PRIOR = (-((SCALES / _PRIOR_SCALE).log() ** 2) / (2 * 0.5**2)).log_softmax(0)
"""Log prior of each scale: log-normal with median 6 and sigma 0.5, normalised over the grid (docs/ablations.md)."""

_MAX_FOLDS = 10


class HeldOutFit(NamedTuple):
    """How well prototypes explain texts that they are made without."""

    evidence: float
    """Log Bayes factor against chance, in nats, of all texts: the scale is integrated out over its prior."""
    scale: float
    """The maximum-likelihood scale."""
    calibrated_scale: float
    """The posterior mean of the scale; with few texts the maximum-likelihood scale is overconfident."""


def stratified_folds(labels: Tensor) -> Tensor:
    """Numbers of the folds of texts, int64 (n,): the i-th text of each class is in fold i, modulo at most 10.

    Example:
        >>> stratified_folds(torch.tensor([0, 0, 1, 1, 1]))
        tensor([0, 1, 0, 1, 2])
    """
    seen: dict[int, int] = {}
    folds = []
    for label in labels.tolist():
        folds.append(seen.get(label, 0) % _MAX_FOLDS)
        seen[label] = seen.get(label, 0) + 1
    return torch.tensor(folds, dtype=torch.int64)


def held_out_cosines(
    features: Tensor, labels: Tensor, class_priors: Tensor, centre_prior: CentrePrior | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines of each text to prototypes of the other folds. They are differentiable in the features.

    If no class has two texts, the prototypes are the priors alone, and the centre is that of all texts.

    Args:
        features: float (n, hidden).
        labels: int64 (n,).
        class_priors: (ways, hidden).
        centre_prior: prior of the centre.

    Returns:
        The cosines, (n, ways), and a mask, bool (n,), of the texts whose class has no prototype in the other folds.
        Their rows have no meaning.
    """
    folds, ways = stratified_folds(labels), len(class_priors)
    if not folds.any():
        directions = CentredFeatures(features, labels, ways, centre_prior).directions
        return directions @ normalize(class_priors, dim=1).T, (class_priors.norm(dim=1) < 1e-4)[labels]
    cosines, rows, missing = [], [], torch.zeros(len(labels), dtype=torch.bool)
    for fold in range(int(folds.max()) + 1):
        held = (folds == fold).nonzero().squeeze(1)
        kept = (folds != fold).nonzero().squeeze(1)
        space = CentredFeatures(features[kept], labels[kept], ways, centre_prior)
        prototypes = space.prototypes(class_priors)
        cosines.append(space.cosines(features[held], prototypes))
        missing[held] = (prototypes.detach().norm(dim=1) < 1e-4)[labels[held]]
        rows.append(held)
    return torch.cat(cosines)[torch.cat(rows).argsort()], missing


def held_out_fit(
    features: Tensor, labels: Tensor, class_priors: Tensor, centre_prior: CentrePrior | None = None
) -> HeldOutFit:
    """Fits the scale of the held-out cosines; the arguments are those of `held_out_cosines`.

    A text whose class has no prototype in the other folds counts as chance, log(1 / ways). The calibrated scale is the
    exponential of the posterior mean of log(scale).
    """
    chance = -math.log(len(class_priors))
    if not len(labels):
        return HeldOutFit(0.0, _PRIOR_SCALE, _NAMES_SCALE)
    cosines, missing = held_out_cosines(features, labels, class_priors, centre_prior)
    logits = cosines * SCALES.view(-1, 1, 1)
    log_likelihoods = log_softmax(logits, 2)[:, torch.arange(len(labels)), labels]  # (scales, n)
    log_likelihoods[:, missing] = chance
    joint = log_likelihoods.sum(1) + _LOG_PRIOR  # (scales,)
    calibrated_scale = float((joint.softmax(0) * SCALES.log()).sum().exp())
    best = float(SCALES[log_likelihoods.sum(1).argmax()])
    return HeldOutFit(float(joint.logsumexp(0)) - chance * len(labels), best, calibrated_scale)
