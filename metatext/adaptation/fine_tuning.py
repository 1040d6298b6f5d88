"""Fine-tunes the encoder from the chosen start with the held-out loss.

The loss is the negative held-out log-likelihood: each text is classified by prototypes of the other folds
(`metatext.adaptation.held_out`). Prototypes of all texts fit these texts already, so their loss would
leave little to learn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from metatext.adaptation.held_out import held_out_cosines
from metatext.adaptation.prototypes import CentredFeatures
from metatext.adaptation.start import Start, class_indices
from metatext.adaptation.top_layers import TopLayers
from metatext.core.in_place import in_scratch_memory
from metatext.data.episodes import Examples
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner
from metatext.training.schedules import learning_rate, shuffled_batches

logger = logging.getLogger(__name__)
EPOCHS, MIN_TEXTS = 4, 30  # default passes over the support, and the smallest support that gets them
LARGE, LARGE_EPOCHS = 150, 3  # supports with more texts get fewer passes, over the top layers only
_BATCH_SIZE, _MAX_GRADIENT_NORM = 16, 1.0


class Tuning(NamedTuple):
    """Which layers are fine-tuned, and how fast."""

    share: float
    """Share of the encoder's layers, from the top."""
    learning_rate: float
    """Peak learning rate of Adam."""


ALL_LAYERS, TOP_LAYERS = Tuning(1.0, 5e-5), Tuning(1 / 3, 1e-4)


@contextmanager
def fine_tuned(
    learner: Learner,
    support: Examples,
    start: Start,
    epochs: int,
    unlabelled: Sequence[str] = (),
    tuning: Tuning | None = None,
) -> Iterator[LinearLayer]:
    """Fine-tunes the encoder within the block and yields the linear layer of the tuned prototypes.

    Adam with warm-up and linear decay, over shuffled batches of texts. The prototypes are made of all texts; the texts
    outside the batch keep the features of their last encoding. The word embeddings are frozen, because a few texts
    contain few of the words.

    Args:
        learner: a learner whose encoder is already at `start.blend`. Its weights and gradients are restored when the
            block ends.
        support: labelled texts.
        start: the start that `choose_start` chose for the support.
        epochs: passes over the support. With 0 the encoder stays at the start.
        unlabelled: further texts, which are added to the prototypes by soft k-means.
        tuning: layers and learning rate. Default: all layers, and of more than `LARGE` texts the top layers, which
            takes a third of the time and gains about as much there (docs/ablations.md).
    """
    tuning = tuning or (TOP_LAYERS if len(support) > LARGE else ALL_LAYERS)
    layers = TopLayers(learner, support.texts, tuning.share) if epochs > 0 and len(support) else None
    trainable = layers.parameters() if layers else []
    if not trainable and not unlabelled:
        yield start.layer
        return
    with in_scratch_memory(trainable), _requiring_gradients(trainable):
        features = start.features
        if layers and trainable:
            rate = ALL_LAYERS.learning_rate if layers.whole else tuning.learning_rate
            features = _fine_tune(layers, trainable, support, start, epochs, rate)
        yield _layer(learner, features, support, start, unlabelled)


@contextmanager
def _requiring_gradients(tensors: list[Tensor]) -> Iterator[None]:
    """Lets the tensors require gradients within the block, and puts `.requires_grad` and `.grad` back at its end."""
    saved = [(tensor.requires_grad, tensor.grad) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_()
        yield
    finally:
        for tensor, (required, gradient) in zip(tensors, saved, strict=True):
            tensor.requires_grad_(required)
            tensor.grad = gradient


def _fine_tune(
    layers: TopLayers, trainable: list[Tensor], support: Examples, start: Start, epochs: int, rate: float
) -> Tensor:
    """Fine-tunes parameters of the top layers and returns the features of the support, (n, hidden)."""
    labels = class_indices(support)
    steps = max(1, round(epochs * len(labels) / min(_BATCH_SIZE, len(labels))))
    logger.info("fine-tuning on %d texts, %d steps", len(labels), steps)
    optimizer = torch.optim.Adam(trainable, rate, fused=True)
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, 0.1))
    latest_features = start.features.clone()  # (n, hidden)
    for rows in shuffled_batches(len(labels), _BATCH_SIZE, steps):
        batch = torch.tensor(sorted(set(rows)))
        with torch.enable_grad():
            features = layers.features(batch).float()
            all_features = latest_features.index_copy(0, batch, features)
            cosines, missing = held_out_cosines(all_features, labels, start.class_priors, start.centre_prior)
            scored = batch[~missing[batch]]
            loss = cross_entropy(start.scale * cosines[scored], labels[scored], reduction="sum") / len(batch)
            gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
        for tensor, gradient in zip(trainable, gradients, strict=True):
            tensor.grad = gradient
        torch.nn.utils.clip_grad_norm_(trainable, _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        latest_features[batch] = features.detach()
    with torch.no_grad():
        return layers.features(torch.arange(len(labels))).float()


@torch.no_grad()
def _layer(
    learner: Learner, features: Tensor, support: Examples, start: Start, unlabelled: Sequence[str]
) -> LinearLayer:
    """The layer of the prototypes of the support, with these features, and the unlabelled texts."""
    labels, class_priors = class_indices(support), start.class_priors
    if not unlabelled:
        space = CentredFeatures(features, labels, len(class_priors), start.centre_prior)
        return space.layer(class_priors, start.calibrated_scale)
    unlabelled_features = learner.encode(unlabelled).float()
    space = CentredFeatures(features, labels, len(class_priors), start.centre_prior, unlabelled_features)
    sums = space.soft_k_means(class_priors, unlabelled_features, start.scale)
    # Without labelled texts, the calibrated scale is that of names alone.
    return space.layer(class_priors + sums, start.calibrated_scale if len(support) else start.scale)
