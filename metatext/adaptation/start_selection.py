"""Chooses the start of an adaptation, a blend of the encoder and a layer of prototypes, from the support alone.

The prototype of a class (`metatext.adaptation.prototypes`) is the sum of its texts' directions and of its prior. The
prior points where the class is expected before any of its texts is seen: in the direction of its name and, if a source
domain has a class of that name, of this source class. It counts as `prior_weight` texts.

Blend and prior weight are posterior means, over a grid of both. The likelihood is that of the support texts under
prototypes of the other folds (`metatext.adaptation.held_out`). The log prior (`_log_priors`) favours the meta-trained
encoder and the class priors if the sources have all classes of the target. The maximum would be worse than the mean:
with few texts it is often the maximum by chance.

If no class has two texts, the class priors alone predict the texts. The likelihood is then the same for every positive
weight, so there is one, `_SINGLE_TEXT_WEIGHT`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import log2
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.nn.functional import normalize

from metatext.adaptation.held_out import HeldOutFit, held_out_fit
from metatext.adaptation.prototypes import CentredFeatures, CentrePrior
from metatext.adaptation.start import Start, class_indices, encoded, encoded_names
from metatext.data.class_names import descriptions, fold_case, readable_names, without_negations
from metatext.data.episodes import Examples
from metatext.errors import InputError, quote_list
from metatext.learners.heads import PrototypeHead
from metatext.learners.learner import Learner
from metatext.learners.weight_blending import BLENDS, blended

logger = logging.getLogger(__name__)

RULE_VERSION = 8  # version of the start-selection rule; part of the resume key of an evaluation
_WEIGHTS = (1.0, 2.0, 4.0, 8.0)  # grid of the prior weight beside 0, in texts
_SINGLE_TEXT_WEIGHT = 2.0  # the only one if no class has two texts
_LOG_ODDS = 2.4  # prior log odds (nats) of class priors against none
_LOG_ODDS_SHARED = 5.3  # the same if the sources have all classes
_SHARED_BLEND = 4.0  # nats in favour of the meta-trained encoder if the sources have all classes


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
        support: labelled texts, none or more of each class.
        classes: the label of each class index of the support.
        names: the name of each class, in the language of the texts. A class with an empty name has no prior. With None
            there are no priors from names, and the labels find the source classes.
        blend: share of the meta-trained weights, one of `BLENDS`; by default it is chosen too.
        sources: use the source classes that the learner remembers as priors.

    Returns:
        The start, or None for a learner with a linear head, which is its own start.

    Raises:
        InputError: a class has neither a text nor a prior.
    """
    if not isinstance(learner.head, PrototypeHead):
        return None
    labels = class_indices(support)
    source_rows_of = source_rows(learner, classes, names) if sources else [[] for _ in classes]
    shared = all(source_rows_of)
    names = names or [""] * len(classes)
    readable = learner.tokens.readable(names)
    usable = without_negations(readable)
    if blend is not None:
        blends: tuple[float, ...] = (blend,)
    else:  # the blends of an encoder that was never meta-trained are all the same
        blends = BLENDS if learner.pretrained is not None and learner.meta_trained else (1.0,)
    candidates = {share: _candidate(learner, support, usable, source_rows_of, share) for share in blends}
    _check_evidence(candidates[blends[0]], classes, names, readable)
    several = bool((torch.bincount(labels) > 1).any())
    log_priors = _log_priors(_WEIGHTS if several else (_SINGLE_TEXT_WEIGHT,), shared)
    scores = {
        (share, weight): candidate.fit(weight).evidence + log_prior + (_SHARED_BLEND * share if shared else 0.0)
        for share, candidate in candidates.items()
        for weight, log_prior in log_priors.items()
        if weight == 0 or candidate.directions.any()
    }
    chosen, weight = posterior_means(scores)
    candidate = candidates[chosen]
    class_priors, fit = candidate.priors(weight), candidate.fit(weight)
    centre_prior = candidate.centre_prior(weight)
    space = CentredFeatures(candidate.features, labels, len(classes), centre_prior)
    layer = space.layer(class_priors, fit.calibrated_scale)
    return Start(
        chosen, weight, class_priors, shared, centre_prior, fit.scale, fit.calibrated_scale, candidate.features, layer
    )


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

    features: Tensor  # (n, hidden)
    labels: Tensor  # int64 (n,)
    directions: Tensor  # prior directions, unit length or zero, (classes, hidden)
    shared: bool  # whether the sources have all classes
    prior_of_centre: CentrePrior | None

    def priors(self, weight: float) -> Tensor:
        """The class priors, (classes, hidden). A class without texts has nothing else, so its prior always counts."""
        empty = torch.bincount(self.labels, minlength=len(self.directions)).unsqueeze(1) == 0
        return self.directions * torch.where(empty, max(weight, 1.0), weight)

    def fit(self, weight: float) -> HeldOutFit:
        return held_out_fit(self.features, self.labels, self.priors(weight), self.centre_prior(weight))

    def centre_prior(self, weight: float) -> CentrePrior | None:
        """The prior of the centre. Names that count for nothing do not move the centre either."""
        return self.prior_of_centre if self.shared or self.priors(weight).any() else None


def _candidate(
    learner: Learner, support: Examples, names: Sequence[str], rows: Sequence[Sequence[int]], blend: float
) -> _Candidate:
    with blended(learner, blend):
        features = encoded(learner, support)
        name_directions = _name_directions(learner, names)
    source_classes = [_source_class(learner, of, BLENDS.index(blend)) for of in rows]
    source_directions = torch.stack([direction for direction, _ in source_classes])
    centre_prior = None
    if all(rows):
        centre_prior = _source_centre(source_classes)
    elif name_directions.any():  # at the origin, texts and names are compared by their plain cosine
        named = name_directions[name_directions.any(dim=1)]
        centre_prior = CentrePrior.between(named, torch.zeros_like(named[0]))
    directions = normalize(name_directions + source_directions, dim=1)
    return _Candidate(features, class_indices(support), directions, all(rows), centre_prior)


def _check_evidence(
    candidate: _Candidate, classes: Sequence[str], names: Sequence[str], readable: Sequence[str]
) -> None:
    """Refuses a class that has neither a text nor a prior."""
    texts = torch.bincount(candidate.labels, minlength=len(classes))
    for row, label in enumerate(classes):
        if not texts[row] and not candidate.directions[row].any():
            if readable[row]:
                why = "its name and another's differ by a negation only"
            elif names[row]:
                why = f"the encoder has no words for its name {names[row]!r}"
            else:
                why = "its label does not say what it means"
            raise InputError(
                f"nothing is known of class {label!r}, of which there is no text: {why}; give it a labelled text, or a "
                f"name in the language of the texts, {label}=name (--classes or --class-names, in Python class_names)"
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
        keys = [fold_case(key) for key in (*descriptions(name), label) if name]
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


def _log_priors(weights: Sequence[float], shared: bool) -> dict[float, float]:
    """Log prior (nats, up to a constant) of the prior weight 0 and of each of `weights` (docs/ablations.md).

    All positive weights together have the log odds `_LOG_ODDS` against 0, in equal parts. If the sources have all
    classes (`shared`) they have `_LOG_ODDS_SHARED`, with half a nat more for a double weight.
    """
    shares = np.array([log2(weight) / 2 if shared else 0.0 for weight in weights])
    log_odds = _LOG_ODDS_SHARED if shared else _LOG_ODDS
    return {0.0: 0.0} | dict(zip(weights, (log_odds + log_softmax(shares)).tolist(), strict=True))


def _name_directions(learner: Learner, names: Sequence[str]) -> Tensor:
    """Unit directions of the encoded names from their mean, (classes, hidden); zero for an empty or an only name."""
    directions = torch.zeros(len(names), learner.encoder.config.hidden_size)
    rows = [i for i, name in enumerate(names) if name]
    if len(rows) > 1:
        features = encoded_names(learner.encode, [names[i] for i in rows])
        directions[rows] = normalize(features - features.mean(0), dim=1)
    return directions


def _source_class(learner: Learner, rows: Sequence[int], blend_index: int) -> tuple[Tensor, Tensor | None]:
    """Direction and centroid, (hidden,) each, of the source classes `rows` as one class; zero and None without rows."""
    if not rows or learner.source_classes is None:
        return torch.zeros(learner.encoder.config.hidden_size), None
    _, prototypes, centroids = learner.source_classes
    centroid = None if centroids is None else centroids[blend_index, list(rows)].mean(0)
    return normalize(prototypes[blend_index, list(rows)].sum(0), dim=0), centroid


def _source_centre(source_classes: Sequence[tuple[Tensor, Tensor | None]]) -> CentrePrior | None:
    """The centre of source classes, given as (direction, centroid); None if the learner was saved without centroids."""
    centroids = [centroid for _, centroid in source_classes if centroid is not None]
    if len(centroids) < len(source_classes):
        return None
    directions = torch.stack([direction for direction, _ in source_classes])
    return CentrePrior.between(directions, torch.stack(centroids).mean(0))
