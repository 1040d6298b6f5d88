"""Chooses the start of an adaptation, a blend of the encoder and a layer of prototypes, from the support alone.

The prototype of a class (`metatext.adaptation.prototypes`) is the sum of its texts' directions and of its prior. The
prior points where the class is expected before any of its texts is seen: in the direction of its name and, if a source
domain has a class of that name, of this source class. It counts as `prior_weight` texts.

Blend and prior weight are posterior means, over a grid of both. The likelihood is that of the support texts under
leave-one-out prototypes, at the best scale. The log prior (`_log_prior`) favours the meta-trained encoder and the class
priors if the sources have all classes of the target. The maximum would be worse than the mean: with few texts it is
often the maximum by chance.

If no class has two texts, the leave-one-out likelihood says too little. The blend is then 1 if the sources have all
classes and `_SINGLE_TEXT_BLEND` otherwise. The priors count as `_SINGLE_TEXT_WEIGHT` texts, or as none if the log Bayes
factor of the priors against chance is below a threshold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import log2
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn.functional import normalize

from metatext.adaptation.prototypes import CentredFeatures, SourceCentre
from metatext.adaptation.start import Start
from metatext.data.class_names import fold_case, readable_names
from metatext.data.episodes import Examples
from metatext.errors import quote_list
from metatext.learners.heads import PrototypeHead
from metatext.learners.learner import Learner
from metatext.learners.weight_blending import BLENDS, blended

logger = logging.getLogger(__name__)

RULE_VERSION = 5  # version of the start-selection rule; part of the resume key of an evaluation
_PRIOR_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)  # grid of the prior weight, in texts
_SINGLE_TEXT_WEIGHT, _SINGLE_TEXT_BLEND = 2.0, 0.5  # prior weight and blend if no class has two texts
_MIN_EVIDENCE = -0.5  # nats; with less evidence the priors are ignored if no class has two texts
_MIN_EVIDENCE_SHARED = -4.5  # the same threshold if the sources have all classes


@torch.no_grad()
def choose_start(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    names: Sequence[str] | None,
    blend: float | None = None,
    sources: bool = True,
) -> Start | None:
    """Chooses the start for a support.

    Args:
        learner: a learner. It is not changed.
        support: labelled texts, at least one of each class.
        classes: the label of each class index of the support.
        names: the name of each class, in the language of the texts. A class with an empty name has no prior. With None
            there are no priors from names, and the labels find the source classes.
        blend: share of the meta-trained weights, one of `BLENDS`; by default it is chosen too.
        sources: use the source classes that the learner remembers as priors.

    Returns:
        The start, or None for a learner with a linear head, which is its own start.
    """
    if not isinstance(learner.head, PrototypeHead):
        return None
    labels = torch.tensor(support.labels)
    any_class_has_two = bool((torch.bincount(labels) > 1).any())
    source_rows_of = source_rows(learner, classes, names) if sources else [[] for _ in classes]
    shared = all(source_rows_of)
    readable = [name if name and learner.tokens.reads(name) else "" for name in names or [""] * len(classes)]
    if blend is not None:
        blends: tuple[float, ...] = (blend,)
    elif learner.pretrained is None:
        blends = (1.0,)
    else:
        blends = BLENDS if any_class_has_two else (1.0 if shared else _SINGLE_TEXT_BLEND,)
    candidates = {blend: _candidate(learner, support, readable, source_rows_of, blend) for blend in blends}
    scores: dict[tuple[float, float], float] = {}
    for blend, (features, directions, _) in candidates.items():
        if not directions.any():
            weights: tuple[float, ...] = (0.0,)
        elif any_class_has_two:
            weights = _PRIOR_WEIGHTS
        else:
            min_evidence = _MIN_EVIDENCE_SHARED if shared else _MIN_EVIDENCE
            weights = (_SINGLE_TEXT_WEIGHT if features.evidence(directions) > min_evidence else 0.0,)
        for weight in weights:
            fit = features.leave_one_out(weight * directions)
            scores[blend, weight] = fit.log_likelihood * len(labels) + _log_prior(blend, weight, shared)
    blend, weight = posterior_means(scores)
    features, directions, source_centre = candidates[blend]
    class_priors = weight * directions
    fit = features.leave_one_out(class_priors)
    layer = features.layer(class_priors, fit.calibrated_scale)
    return Start(blend, weight, class_priors, shared, source_centre, fit.scale, fit.calibrated_scale, layer)


def posterior_means(scores: Mapping[tuple[float, float], float]) -> tuple[float, float]:
    """Posterior means of blend and prior weight; the blend is rounded to the nearest candidate.

    The prior weight is averaged as log(1 + weight), because the same step matters less at a larger weight.

    Args:
        scores: log posterior (nats, up to a constant) of each (blend, prior weight).

    Example:
        >>> posterior_means({(0.0, 0.0): -9.0, (0.5, 2.0): -2.0, (1.0, 2.0): -2.0})
        (0.5, 2.0)
    """
    blends, weights = np.array(list(scores)).T
    posterior = softmax(list(scores.values()))
    mean_blend = np.average(blends, weights=posterior)
    mean_weight = np.expm1(np.average(np.log1p(weights), weights=posterior))
    return float(min(blends, key=lambda blend: abs(blend - mean_blend))), round(float(mean_weight), 1)


class _Candidate(NamedTuple):
    """A support and its class priors in the feature space of one blend."""

    features: CentredFeatures
    directions: Tensor  # prior directions, unit length or zero, (classes, hidden)
    source_centre: SourceCentre | None  # None unless the sources have all classes


def _candidate(
    learner: Learner, support: Examples, names: Sequence[str], rows: Sequence[Sequence[int]], blend: float
) -> _Candidate:
    with blended(learner, blend):
        features = learner.encode(support.texts).float()
        name_directions = _name_directions(learner, names)
    source_classes = [_source_class(learner, of, BLENDS.index(blend)) for of in rows]
    source_directions = torch.stack([direction for direction, _ in source_classes])
    source_centre = _source_centre(source_classes) if all(rows) else None
    return _Candidate(
        CentredFeatures(features, torch.tensor(support.labels), len(names), source_centre),
        normalize(name_directions + source_directions, dim=1),
        source_centre,
    )


def source_rows(learner: Learner, classes: Sequence[str], names: Sequence[str] | None) -> list[list[int]]:
    """Rows of `learner.source_classes` that are the same class as each target class.

    A class is looked up by its name, then by its label, ignoring case. It has no rows if its name is empty, if neither
    name nor label says anything (numbers and the like), or if another target class has the same rows.

    Args:
        learner: a learner with or without source classes.
        classes: labels of the target classes.
        names: their names; None looks up the labels alone.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(learner.source_classes.names if learner.source_classes else []):
        rows.setdefault(fold_case(name), []).append(row)
    found = list[list[int]]()
    for label, name in zip(readable_names(classes), readable_names(classes) if names is None else names, strict=True):
        keys = [key for key in (fold_case(name), fold_case(label)) if key and name]
        found.append(next((rows[key] for key in keys if key in rows), []))
    return [own if found.count(own) == 1 else [] for own in found]


def unreadable_labels(learner: Learner, classes: Sequence[str], names: Sequence[str]) -> list[str]:
    """Labels without a prior because the encoder cannot read their names and the sources do not have them."""
    rows = source_rows(learner, classes, names)
    return [
        label
        for label, name, of in zip(classes, names, rows, strict=True)
        if name and not of and not learner.tokens.reads(name)
    ]


def warn_of_unreadable_names(learner: Learner, classes: Sequence[str], names: Sequence[str]) -> None:
    """Warns of labels whose names the encoder cannot read. A learned (linear) head reads no names."""
    if isinstance(learner.head, PrototypeHead) and (unreadable := unreadable_labels(learner, classes, names)):
        logger.warning(
            "the encoder has no words for what these labels are called, so their names are not used: %s; "
            "say it in its language (--class-names label=name, in Python class_names)",
            quote_list(unreadable),
        )


def _log_prior(blend: float, weight: float, shared: bool) -> float:
    """Log prior (nats, up to a constant) of a blend and a prior weight (docs/ablations.md).

    A weight above 0 has 1 nat. If the sources have all classes (`shared`) it has 3 nats and half a nat per doubling,
    and the meta-trained encoder has 4 nats more than the pretrained one.
    """
    if not shared:
        return 1.0 if weight else 0.0
    return 4 * blend + (3 + log2(weight) / 2 if weight else 0.0)


def _name_directions(learner: Learner, names: Sequence[str]) -> Tensor:
    """Unit directions of the encoded names from their mean, (classes, hidden); zero for an empty or an only name."""
    directions = torch.zeros(len(names), learner.encoder.config.hidden_size)
    rows = [i for i, name in enumerate(names) if name]
    if len(rows) > 1:
        encoded = learner.encode([names[i] for i in rows]).float()
        directions[rows] = normalize(encoded - encoded.mean(0), dim=1)
    return directions


def _source_class(learner: Learner, rows: Sequence[int], blend_index: int) -> tuple[Tensor, Tensor | None]:
    """Direction and centroid, (hidden,) each, of the source classes `rows` as one class; zero and None without rows."""
    if not rows or learner.source_classes is None:
        return torch.zeros(learner.encoder.config.hidden_size), None
    _, prototypes, centroids = learner.source_classes
    centroid = None if centroids is None else centroids[blend_index, list(rows)].mean(0)
    return normalize(prototypes[blend_index, list(rows)].sum(0), dim=0), centroid


def _source_centre(source_classes: Sequence[tuple[Tensor, Tensor | None]]) -> SourceCentre | None:
    """The centre of source classes, given as (direction, centroid); None if the learner was saved without centroids."""
    centroids = [centroid for _, centroid in source_classes if centroid is not None]
    if len(centroids) < len(source_classes):
        return None
    directions = torch.stack([direction for direction, _ in source_classes])
    _, singular_values, basis = torch.linalg.svd(directions - directions.mean(0), full_matrices=False)
    return SourceCentre(torch.stack(centroids).mean(0), basis[singular_values > 1e-3 * singular_values[0]])
