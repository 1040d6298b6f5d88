"""Where adaptation starts: a blend of the encoder and a linear layer of prototypes, chosen from the support alone.

A class's prototype (`metatext.prototypes`) is the sum of its texts' directions, and of `weight` times the direction of
what was known of the class before: its name and, where a source domain has a class of the same name, that class.
Blend and weight are the means of their posterior: the likelihood of each support text under prototypes made without it
(leave-one-out, at the scale that suits it best), times a prior: where the sources have all the target's classes, what
was learned of them likely holds. The best of a few texts would often be so by chance. With one text a class, that
likelihood says too little: the blend is half and half, or all meta-trained where the sources have all classes, and what
was known counts as two texts unless the texts speak against it.
"""

from __future__ import annotations

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
from metatext.learners.heads import PrototypeHead
from metatext.learners.learner import Learner
from metatext.learners.weight_blending import BLENDS, blended

RULE_VERSION = 5  # of the choice: an evaluation that was begun by another does not go on
_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)  # of what was known before, in texts
_WEIGHT, _SHARE = 2.0, 0.5  # where no class has two texts
_DOUBT = -0.5  # nats of evidence below which what was known is left out, where no class has two texts
_SHARED_DOUBT = -4.5  # the same where the sources have all classes


@torch.no_grad()
def choose_start(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    names: Sequence[str] | None,
    share: float | None = None,
    sources: bool = True,
) -> Start | None:
    """The start for a task; None with a learned (linear) head, which is a start itself.

    Args:
        learner: left as it was.
        support: labelled texts, at least one of each class.
        classes: labels that the support's indices count.
        names: what each class is called, in the language of the texts; an empty one says that nothing is known of the
            class. None: names are not used, but by their labels to find the sources' classes.
        share: of the meta-trained weights, one of `BLENDS`; by default chosen too.
        sources: use what the learner remembers of the sources' classes.
    """
    if not isinstance(learner.head, PrototypeHead):
        return None
    labels = torch.tensor(support.labels)
    several = bool((torch.bincount(labels) > 1).any())
    rows = source_rows(learner, classes, names) if sources else [[] for _ in classes]
    shared = all(rows)
    said = [name if name and learner.tokens.reads(name) else "" for name in names or [""] * len(classes)]
    if share is not None:
        shares: tuple[float, ...] = (share,)
    elif learner.pretrained is None:
        shares = (1.0,)
    else:
        shares = BLENDS if several else (1.0 if shared else _SHARE,)
    views = {blend: _view(learner, support, said, rows, blend) for blend in shares}
    scores: dict[tuple[float, float], float] = {}
    for blend, view in views.items():
        if not view.known.any():
            weights: tuple[float, ...] = (0.0,)
        elif several:
            weights = _WEIGHTS
        else:
            weights = (_WEIGHT if view.space.evidence(view.known) > (_SHARED_DOUBT if shared else _DOUBT) else 0.0,)
        for weight in weights:
            held = view.space.leave_one_out(weight * view.known)
            scores[blend, weight] = held.likelihood * len(labels) + _prior(blend, weight, shared)
    blend, weight = posterior_means(scores)
    space, known, middle = views[blend]
    before = weight * known
    held = space.leave_one_out(before)
    layer = space.layer(before, held.calibrated)
    return Start(blend, weight, before, shared, middle, held.scale, held.calibrated, layer)


def posterior_means(scores: Mapping[tuple[float, float], float]) -> tuple[float, float]:
    """The mean weight, and of the blends the one nearest to the mean.

    The mean is of the logarithm of 1 + weight: a weight counts texts beside those of the support.

    Args:
        scores: log posterior of each (share, weight), up to a constant, in nats.
    """
    shares, weights = np.array(list(scores)).T
    odds = softmax(list(scores.values()))
    share = np.average(shares, weights=odds)
    weight = np.expm1(np.average(np.log1p(weights), weights=odds))
    return float(min(shares, key=lambda one: abs(one - share))), round(float(weight), 1)


class _View(NamedTuple):
    """A task as one blend of the encoder sees it."""

    space: CentredFeatures  # of the support
    known: Tensor  # of the classes before, as directions, (classes, hidden)
    middle: SourceCentre | None  # of the classes, where the sources have all of them


def _view(
    learner: Learner, support: Examples, names: Sequence[str], rows: Sequence[Sequence[int]], share: float
) -> _View:
    with blended(learner, share):
        features = learner.encode(support.texts).float()
        known = _named(learner, names)
    remembered = [_remembered(learner, of, BLENDS.index(share)) for of in rows]
    known = normalize(known + torch.stack([direction for direction, _ in remembered]), dim=1)
    middle = _middle(remembered) if all(rows) else None
    return _View(CentredFeatures(features, torch.tensor(support.labels), len(names), middle), known, middle)


def source_rows(learner: Learner, classes: Sequence[str], names: Sequence[str] | None) -> list[list[int]]:
    """Which of the sources' classes each class is, by its name or its label in any case; none where two would be one.

    A label that is a number or the like, or a name that is empty, finds nothing.
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
    """The labels of which nothing is known because the encoder cannot read their names."""
    rows = source_rows(learner, classes, names)
    return [
        label
        for label, name, of in zip(classes, names, rows, strict=True)
        if name and not of and not learner.tokens.reads(name)
    ]


def _prior(share: float, weight: float, shared: bool) -> float:
    """Nats in favour of a start before the texts are seen (docs/results.md).

    1 for each weight above 0 of what is known of the classes. Where the sources have all of them (`shared`), 3, half a
    nat for each doubling of it, and 4 for the meta-trained weights over the pretrained.
    """
    if not shared:
        return 1.0 if weight else 0.0
    return 4 * share + (3 + log2(weight) / 2 if weight else 0.0)


def _named(learner: Learner, names: Sequence[str]) -> Tensor:
    """What the names say: directions from their mean, or zero where one is empty, (classes, hidden)."""
    total = torch.zeros(len(names), learner.encoder.config.hidden_size)
    rows = [i for i, name in enumerate(names) if name]
    if len(rows) > 1:
        named = learner.encode([names[i] for i in rows]).float()
        total[rows] = normalize(named - named.mean(0), dim=1)
    return total


def _remembered(learner: Learner, rows: Sequence[int], blend: int) -> tuple[Tensor, Tensor | None]:
    """Direction and centroid of the source classes `rows` as one, (hidden,) each; zero and none without rows."""
    if not rows or learner.source_classes is None:
        return torch.zeros(learner.encoder.config.hidden_size), None
    _, prototypes, centroids = learner.source_classes
    centroid = None if centroids is None else centroids[blend, list(rows)].mean(0)
    return normalize(prototypes[blend, list(rows)].sum(0), dim=0), centroid


def _middle(remembered: Sequence[tuple[Tensor, Tensor | None]]) -> SourceCentre | None:
    """The middle of source classes, by their directions and centroids; None of a learner of an earlier version."""
    centroids = [centroid for _, centroid in remembered if centroid is not None]
    if len(centroids) < len(remembered):
        return None
    directions = torch.stack([direction for direction, _ in remembered])
    _, sizes, basis = torch.linalg.svd(directions - directions.mean(0), full_matrices=False)
    return SourceCentre(torch.stack(centroids).mean(0), basis[sizes > 1e-3 * sizes[0]])
