"""The start of an adaptation: encoder blend, class priors and linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metatext.adaptation.prototypes import CentrePrior
from metatext.data.class_names import descriptions
from metatext.data.episodes import Examples
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner


class Start(NamedTuple):
    """Where fine-tuning and the inner loop start; `start_selection.choose_start` makes one."""

    blend: float
    """Share of the meta-trained weights in the encoder, from 0 (pretrained) to 1 (meta-trained)."""
    prior_weight: float
    """Number of texts that each class prior counts as."""
    class_priors: Tensor
    """Prior directions of the classes times `prior_weight`, float32 (classes, hidden); zero without a prior."""
    shared: bool
    """Whether every class is also a class of the sources."""
    centre_prior: CentrePrior | None
    """Prior of the feature centre, from the sources if the classes are `shared`, else from the names; or None."""
    scale: float
    """Scale applied to the cosines before the softmax during fine-tuning."""
    calibrated_scale: float
    """Scale applied to the cosines before the softmax in the classifier."""
    features: Tensor
    """Features of the support in the blended encoder, float32 (n, hidden)."""
    layer: LinearLayer
    """Classifier on the features of the blended encoder."""


def class_indices(support: Examples) -> Tensor:
    """The class index of each text of a support, int64 (n,); the support may be empty."""
    return torch.tensor(support.labels, dtype=torch.int64)


def encoded(learner: Learner, support: Examples) -> Tensor:
    """Features of the texts of a support, float32 (n, hidden); the support may be empty."""
    if not support.texts:
        return torch.zeros(0, learner.encoder.config.hidden_size)
    return learner.encode(support.texts).float()


def encoded_names(encode: Callable[[Sequence[str]], Tensor], names: Sequence[str]) -> Tensor:
    """Features of class names that are not empty, float32 (m, hidden); of several descriptions, their mean.

    Args:
        encode: maps texts to features, (n, hidden), such as `Learner.encode`.
        names: the names, m.
    """
    lines = [descriptions(name) for name in names]
    owners = torch.tensor([row for row, of_name in enumerate(lines) for _ in of_name])
    features = encode([line for of_name in lines for line in of_name]).float()
    sums = features.new_zeros(len(names), features.shape[1]).index_add(0, owners, features)
    return sums / torch.bincount(owners, minlength=len(names)).unsqueeze(1)
