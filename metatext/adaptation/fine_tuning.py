"""Fine-tunes the encoder from the chosen start with the held-out loss.

The loss is the negative held-out log-likelihood that also chose the start: each text is classified by prototypes of the
other folds (`metatext.adaptation.held_out`). Prototypes of all texts fit these texts already, so their loss would
leave little to learn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from metatext.adaptation.held_out import held_out_cosines
from metatext.adaptation.prototypes import CentredFeatures
from metatext.adaptation.start import Start, class_indices, encoded
from metatext.core.in_place import in_scratch_memory
from metatext.data.episodes import Examples
from metatext.encoders.lora import adapter_state
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner
from metatext.training.schedules import learning_rate, shuffled_batches

logger = logging.getLogger(__name__)
EPOCHS, MIN_TEXTS = 4, 30  # default passes over the support, and the smallest support that gets them
_BATCH_SIZE, _LEARNING_RATE, _MAX_GRADIENT_NORM = 16, 5e-5, 1.0


@contextmanager
def fine_tuned(
    learner: Learner, support: Examples, start: Start, epochs: int, unlabelled: Sequence[str] = ()
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
    """
    trainable = _trainable(learner)
    trains = epochs > 0 and bool(trainable) and len(support) > 0
    if not trains and not unlabelled:
        yield start.layer
        return
    with in_scratch_memory(trainable), _requiring_gradients(trainable):
        if trains:
            _fine_tune(learner, support, start, epochs, trainable)
        yield _layer(learner, support, start, unlabelled)


def _trainable(learner: Learner) -> list[Tensor]:
    """The parameters to fine-tune: all of the encoder that are not frozen, but for the word embeddings.

    Adapters are left as they are, and the base weights, which only meta-training freezes, are tuned in their place. The
    classifier merges both anyway, and few steps would hardly move the adapters.
    """
    word_embeddings = learner.encoder.get_input_embeddings().weight
    adapters = adapter_state(learner.encoder)
    return [
        p
        for name, p in learner.encoder.named_parameters()
        if p is not word_embeddings and (name not in adapters if adapters else p.requires_grad)
    ]


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


def _fine_tune(learner: Learner, support: Examples, start: Start, epochs: int, trainable: list[Tensor]) -> None:
    texts, labels = support.texts, class_indices(support)
    steps = max(1, round(epochs * len(texts) / min(_BATCH_SIZE, len(texts))))
    logger.info("fine-tuning on %d texts, %d steps", len(texts), steps)
    optimizer = torch.optim.Adam(trainable, _LEARNING_RATE, fused=True)
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, 0.1))
    latest_features = learner.encode(texts).float()  # (n, hidden)
    for rows in shuffled_batches(len(texts), _BATCH_SIZE, steps):
        batch = torch.tensor(sorted(set(rows)))
        with torch.enable_grad():
            features = learner.vectors([texts[row] for row in batch], learner.settings.batch_size).float()
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


@torch.no_grad()
def _layer(learner: Learner, support: Examples, start: Start, unlabelled: Sequence[str]) -> LinearLayer:
    """The layer of the prototypes of the support and the unlabelled texts, encoded with the current weights."""
    features, labels, class_priors = encoded(learner, support), class_indices(support), start.class_priors
    if not unlabelled:
        space = CentredFeatures(features, labels, len(class_priors), start.centre_prior)
        return space.layer(class_priors, start.calibrated_scale)
    unlabelled_features = learner.encode(unlabelled).float()
    space = CentredFeatures(features, labels, len(class_priors), start.centre_prior, unlabelled_features)
    sums = space.soft_k_means(class_priors, unlabelled_features, start.scale)
    return space.layer(class_priors + sums, start.calibrated_scale)
