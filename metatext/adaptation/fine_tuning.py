"""Fine-tuning from the chosen start: the encoder learns to tell the support's texts apart by the prototypes of others.

The loss is the one that the start was chosen by: each text under prototypes made without it (`metatext.prototypes`).
A classifier made of all texts fits them already, and has little left to learn from them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from metatext.adaptation.prototypes import CentredFeatures
from metatext.adaptation.start import Start
from metatext.core.in_place import in_scratch_memory
from metatext.data.episodes import Examples
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner
from metatext.training.schedules import learning_rate, shuffled_batches

logger = logging.getLogger(__name__)
EPOCHS, MIN_TEXTS = 4, 30  # passes over the support by default, and the texts from which on they are made
_BATCH, _RATE, _MAX_NORM = 16, 5e-5, 1.0


@contextmanager
def fine_tuned(
    learner: Learner, support: Examples, start: Start, epochs: int, unlabelled: Sequence[str] = ()
) -> Iterator[LinearLayer]:
    """Within the block the encoder is fine-tuned from `start`, whose blend it has; yields the task's linear layer.

    Adam with warm-up and linear decay over shuffled batches of texts; all texts make the prototypes, those that are not
    in the batch as they were when they were last seen. The word embeddings stay: a few texts have few of the words.

    Args:
        learner: put back when the block ends.
        support: labelled texts.
        start: what `choose` found for them.
        epochs: passes over the support; 0 leaves the start as it is.
        unlabelled: further texts, which join the prototypes.
    """
    table = learner.encoder.get_input_embeddings().weight
    moving: list[Tensor] = [p for p in learner.encoder.parameters() if p.requires_grad and p is not table]
    tunes = epochs > 0 and bool(moving)
    if not tunes and not unlabelled:
        yield start.layer
        return
    with in_scratch_memory(moving), _own_gradients(moving):
        if tunes:
            _fine_tune(learner, support, start, epochs, moving)
        yield _layer(learner, support, start, unlabelled)


@contextmanager
def _own_gradients(tensors: list[Tensor]) -> Iterator[None]:
    """The `.grad` of the tensors is theirs again after the block."""
    before = [tensor.grad for tensor in tensors]
    try:
        yield
    finally:
        for tensor, gradient in zip(tensors, before, strict=True):
            tensor.grad = gradient


def _fine_tune(learner: Learner, support: Examples, start: Start, epochs: int, moving: list[Tensor]) -> None:
    texts, labels, ways = support.texts, torch.tensor(support.labels), len(start.known)
    steps = max(1, round(epochs * len(texts) / min(_BATCH, len(texts))))
    logger.info("fine-tuning on %d texts, %d steps", len(texts), steps)
    optimizer = torch.optim.Adam(moving, _RATE, fused=True)
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, 0.1))
    seen = learner.encode(texts).float()
    for rows in shuffled_batches(len(texts), _BATCH, steps):
        batch = torch.tensor(sorted(set(rows)))
        with torch.enable_grad():
            features = learner.vectors([texts[row] for row in batch], learner.settings.batch_size).float()
            space = CentredFeatures(seen.index_copy(0, batch, features), labels, ways, start.middle)
            cosines, alone = space.held_out(start.known)
            judged = batch[~alone[batch]]
            loss = cross_entropy(start.scale * cosines[judged], labels[judged], reduction="sum") / len(batch)
            gradients = torch.autograd.grad(loss, moving, allow_unused=True)
        for tensor, gradient in zip(moving, gradients, strict=True):
            tensor.grad = gradient
        torch.nn.utils.clip_grad_norm_(moving, _MAX_NORM)
        optimizer.step()
        schedule.step()
        seen[batch] = features.detach()


@torch.no_grad()
def _layer(learner: Learner, support: Examples, start: Start, unlabelled: Sequence[str]) -> LinearLayer:
    """The prototypes of the support, and of unlabelled texts, as the learner's encoder sees them now."""
    features, labels, known = learner.encode(support.texts).float(), torch.tensor(support.labels), start.known
    if not unlabelled:
        return CentredFeatures(features, labels, len(known), start.middle).layer(known, start.calibrated)
    more = learner.encode(unlabelled).float()
    space = CentredFeatures(features, labels, len(known), start.middle, more)
    return space.layer(known + space.soft_k_means(known, more, start.scale), start.calibrated)
