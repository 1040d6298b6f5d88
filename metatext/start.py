"""Where adaptation starts: a blend of the encoder and a linear layer of prototypes, chosen from the support alone.

A class's prototype is the sum of its texts' directions from the support's centre and of `weight` times what was known of
the class before: its name's direction and, where a source domain has a class of the same name, that class's. Blend,
weight and the logits' scale are those with the largest likelihood of each support text under prototypes made without it
(leave-one-out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from metatext.blend import SHARES, blended
from metatext.heads import LinearLayer
from metatext.learner import Learner
from metatext.tasks import Examples

_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)  # of what was known before, in texts
_WEIGHT, _SHARE = 2.0, 0.5  # where no class has two texts, so that leaving one out says too little
_EVIDENCE = 0.5  # nats by which what was known before must explain the texts better than chance does
_SCALES = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])


class Start(NamedTuple):
    """Where the inner loop starts."""

    share: float  # of the meta-trained weights in the encoder
    weight: float  # of what was known of the classes before, in texts
    scale: float  # of the logits, which are cosines
    layer: LinearLayer  # on the features of the blended encoder
    log_likelihood: float  # of the support texts, each left out in turn; nats a text


@torch.no_grad()
def choose(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    class_names: Mapping[str, str] | None = None,
) -> Start:
    """The start for a task.

    Args:
        learner: with a prototype head; left as it was.
        support: labelled texts, at least one of each class.
        classes: labels that the support's indices count.
        class_names: what to call a class, in the language of the texts; by default its label. An empty name is none.
    """
    labels = torch.tensor(support.labels)
    several = bool((torch.bincount(labels) > 1).any())
    shares = (1.0,) if learner.pretrained is None else SHARES if several else (_SHARE,)
    weights = _WEIGHTS if several else (0.0, _WEIGHT)
    names = [readable(label) if class_names is None else class_names.get(label, "") for label in classes]
    best: tuple[float, Start] | None = None
    for share in shares:
        with blended(learner, share):
            features = learner.encode(support.texts).float()
            known = _known(learner, share, classes, names)
        space = _Space(features, labels, len(classes))
        for weight in weights if known.any() else (0.0,):
            likelihood, scale = space.leave_one_out(weight * known)
            score = likelihood * len(labels) - (_EVIDENCE if weight else 0.0)
            if best is None or score > best[0]:
                best = score, Start(share, weight, scale, space.layer(weight * known, scale), likelihood)
    assert best
    return best[1]


def readable(label: str) -> str:
    """A label as a name, empty where it says nothing of its class: a number, or a single Latin letter."""
    name = label.replace("_", " ").strip()
    if sum(c.isalpha() for c in name) == 0 or (len(name) == 1 and name.isascii()):
        return ""
    return name


def _known(learner: Learner, share: float, classes: Sequence[str], names: Sequence[str]) -> Tensor:
    """What is known of each class before its texts are seen: directions, or zero, (classes, hidden)."""
    total = torch.zeros(len(classes), learner.encoder.config.hidden_size)
    if sum(map(bool, names)) > 1:
        rows = [i for i, name in enumerate(names) if name]
        named = learner.encode([names[i] for i in rows]).float()
        total[rows] += normalize(named - named.mean(0), dim=1)
    if learner.source_classes is not None:
        known, prototypes = learner.source_classes
        both = [(i, known.index(label)) for i, label in enumerate(classes) if label in known]
        for i, row in both:
            total[i] += prototypes[SHARES.index(share), row]
    return normalize(total, dim=1)


class _Space:
    """A support's features as directions from their centre, the mean of the class means."""

    def __init__(self, features: Tensor, labels: Tensor, ways: int) -> None:
        self.labels, self.ways = labels, ways
        counts = torch.bincount(labels, minlength=ways).unsqueeze(1)
        means = torch.zeros(ways, features.shape[1]).index_add_(0, labels, features) / counts
        self.centre = means.mean(0)
        self.radius = float((features - self.centre).norm(dim=1).mean().clamp(min=1e-6))
        self.directions = normalize(features - self.centre, dim=1)  # (n, hidden)

    def prototypes(self, known: Tensor) -> Tensor:
        """Sums of directions, (ways, hidden)."""
        return known.index_add(0, self.labels, self.directions)

    def leave_one_out(self, known: Tensor) -> tuple[float, float]:
        """Mean log-likelihood of the texts under prototypes made without them, at the best scale, and that scale."""
        sums, rows = self.prototypes(known), torch.arange(len(self.labels))
        cosines = self.directions @ normalize(sums, dim=1).T
        others = sums[self.labels] - self.directions  # a text's own class without it
        alone = others.norm(dim=1) < 1e-4
        cosines[rows, self.labels] = (normalize(others, dim=1) * self.directions).sum(1)
        logs = log_softmax(cosines * _SCALES.view(-1, 1, 1), 2)[:, rows, self.labels]  # (scales, n)
        logs[:, alone] = -torch.tensor(float(self.ways)).log()  # nothing is known of a class without its only text
        best = int(logs.mean(1).argmax())
        return float(logs.mean(1)[best]), float(_SCALES[best])

    def layer(self, known: Tensor, scale: float) -> LinearLayer:
        """Cosine prototypes as a linear layer on features; the features' distance from the centre is taken as equal."""
        weight = normalize(self.prototypes(known), dim=1) * (scale / self.radius)
        return LinearLayer(weight, -weight @ self.centre)
