"""Where adaptation starts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metatext.adaptation.prototypes import SourceCentre
from metatext.learners.heads import LinearLayer


class Start(NamedTuple):
    """Where the inner loop starts."""

    share: float  # of the meta-trained weights in the encoder
    weight: float  # of what was known of the classes before, in texts
    known: Tensor  # that, (classes, hidden)
    shared: bool  # whether the sources have all classes
    middle: SourceCentre | None  # of the classes, where they do
    scale: float  # of the cosines in the logits while the encoder is fine-tuned
    calibrated: float  # their scale in the classifier
    layer: LinearLayer  # on the features of the blended encoder
