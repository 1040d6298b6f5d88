"""Where adaptation starts: a blend of the encoder and a linear layer of prototypes, chosen from the support alone.

A class's prototype (`metatext.prototypes`) is the sum of its texts' directions, and of `weight` times the direction of
what was known of the class before: its name and, where a source domain has a class of the same name, that class.
Blend and weight are those with the largest likelihood of each support text under prototypes made without it
(leave-one-out), times a prior: where the sources have all the target's classes, what was learned of them likely holds.
With one text a class, that likelihood says too little of the blend, and of what was known only whether the texts speak
against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metatext.blend import SHARES, blended
from metatext.errors import InputError
from metatext.heads import LinearLayer, PrototypeHead
from metatext.learner import Learner, SourceClasses
from metatext.prototypes import Middle, Space
from metatext.tables import choice
from metatext.tasks import Examples

_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)  # of what was known before, in texts
_WEIGHT, _SHARE = 2.0, 0.5  # where no class has two texts
_DOUBT, _SHARED_DOUBT = -0.5, -4.5  # nats that it must be worth, alone, where no class has two texts


class Start(NamedTuple):
    """Where the inner loop starts."""

    share: float  # of the meta-trained weights in the encoder
    weight: float  # of what was known of the classes before, in texts
    known: Tensor  # that, (classes, hidden)
    middle: Middle | None  # of the classes, where the sources have them all
    scale: float  # of the cosines in the logits while the encoder is fine-tuned
    calibrated: float  # their scale in the classifier
    layer: LinearLayer  # on the features of the blended encoder


@torch.no_grad()
def choose(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    names: Sequence[str],
    share: float | None = None,
    sources: bool = True,
) -> Start | None:
    """The start for a task; None with a learned (linear) head, which is a start itself.

    Args:
        learner: left as it was.
        support: labelled texts, at least one of each class.
        classes: labels that the support's indices count.
        names: what each class is called, in the language of the texts; an empty one says nothing.
        share: of the meta-trained weights, one of `SHARES`; by default chosen too.
        sources: use what the learner remembers of the sources' classes.
    """
    if not isinstance(learner.head, PrototypeHead):
        return None
    labels = torch.tensor(support.labels)
    several = bool((torch.bincount(labels) > 1).any())
    rows = _source_rows(learner, classes, names) if sources else [None] * len(classes)
    shared = None not in rows
    if share is not None:
        shares: tuple[float, ...] = (share,)
    elif learner.pretrained is None:
        shares = (1.0,)
    else:
        shares = SHARES if several else (1.0 if shared else _SHARE,)
    best: tuple[float, Start] | None = None
    for blend in shares:
        with blended(learner, blend):
            features = learner.encode(support.texts).float()
            known = _known(learner, names, rows, SHARES.index(blend))
        middle = _middle(learner.source_classes, rows, SHARES.index(blend)) if shared else None
        space = Space(features, labels, len(classes), middle)
        if not known.any():
            weights: tuple[float, ...] = (0.0,)
        elif several:
            weights = _WEIGHTS
        else:
            weights = (_WEIGHT if space.evidence(known) > (_SHARED_DOUBT if shared else _DOUBT) else 0.0,)
        for weight in weights:
            before = weight * known
            held = space.leave_one_out(before)
            score = held.likelihood * len(labels) + _prior(blend, weight, shared)
            if best is None or score > best[0]:
                layer = space.layer(before, held.calibrated)
                best = score, Start(blend, weight, before, middle, held.scale, held.calibrated, layer)
    assert best
    return best[1]


def check_names(class_names: Iterable[str], classes: Sequence[str]) -> None:
    """Refuses a name for a label that is not among `classes`.

    Raises:
        InputError: naming the label, and the one that may have been meant.
    """
    for label in sorted(set(class_names) - set(classes)):
        raise InputError(f"a name is given for label {label!r}; {choice(label, classes)}")


def called(classes: Sequence[str], class_names: Mapping[str, str] | None) -> list[str]:
    """What each class is called: by `class_names`, else its label where that is readable."""
    own = dict(zip(classes, readable(classes), strict=True))
    return [(class_names or {}).get(label, own[label]) for label in classes]


def readable(labels: Sequence[str]) -> list[str]:
    """Labels as names; empty where they say nothing: numbers, single letters, or words that only their digits part."""
    names = [label.replace("_", " ").strip() for label in labels]
    words = ["".join(c for c in name if not c.isdigit()).strip(" -.#") for name in names]
    if len(set(words)) < len(words) or any(len(word) < 2 and word.isascii() for word in words):
        return [""] * len(names)
    return names


def _source_rows(learner: Learner, classes: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Which of the sources' classes each class is, by its name or its label in any case; None if none."""

    def key(name: str) -> str:
        return name.replace("_", " ").strip().casefold()

    known = {key(name): row for row, name in enumerate(learner.source_classes.names)} if learner.source_classes else {}
    return [known.get(key(name), known.get(key(label))) for label, name in zip(classes, names, strict=True)]


def _prior(share: float, weight: float, shared: bool) -> float:
    """Nats in favour of a start before the texts are seen: names are usually right.

    Where the sources have all classes (`shared`), the meta-trained weights and much of what is known are, too.
    """
    if not shared:
        return 1.0 if weight else 0.0
    return 4 * share + (3 + log2(weight) / 2 if weight else 0.0)


def _known(learner: Learner, names: Sequence[str], source_rows: Sequence[int | None], blend: int) -> Tensor:
    """What is known of each class before its texts are seen: directions, or zero, (classes, hidden).

    Args:
        learner: in its blend number `blend`.
        names: what each class is called.
        source_rows: which of the sources' classes each is.
        blend: in which the sources' classes are looked up.
    """
    total = torch.zeros(len(names), learner.encoder.config.hidden_size)
    read = [i for i, name in enumerate(names) if name and learner.tokens.reads(name)]
    if len(read) > 1:
        named = learner.encode([names[i] for i in read]).float()
        total[read] += normalize(named - named.mean(0), dim=1)
    for i, row in enumerate(source_rows):
        if row is not None and learner.source_classes:
            total[i] += learner.source_classes.prototypes[blend, row]
    return normalize(total, dim=1)


def _middle(source_classes: SourceClasses | None, rows: Sequence[int | None], blend: int) -> Middle | None:
    """What the sources know of the middle of their classes `rows`; None of a learner of an earlier version."""
    if source_classes is None or source_classes.centres is None:
        return None
    prototypes = source_classes.prototypes[blend, rows]
    _, sizes, directions = torch.linalg.svd(prototypes - prototypes.mean(0), full_matrices=False)
    return Middle(source_classes.centres[blend, rows].mean(0), directions[sizes > 1e-3 * sizes[0]])
