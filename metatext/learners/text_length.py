"""The maximum length of texts when a learner adapts and predicts, which need not be that of its meta-training.

Meta-training reads many texts and often cuts them short to save time. Adaptation reads few, and short texts cost the
same at any maximum length, because batches are padded to their own longest text. So the default is what the encoder is
made for, up to a cap. It depends on no text: neither their order nor the draw of a support changes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from metatext.encoders.architectures import positions
from metatext.errors import InputError
from metatext.learners.learner import Learner

MAX_LENGTH = 256
"""Cap of the default maximum length, in tokens. 512 tokens cost more and gained nothing (docs/ablations.md)."""


def encoder_length(learner: Learner) -> int:
    """Returns the maximum length that suits the learner's pretrained encoder: its own, up to `MAX_LENGTH` tokens."""
    return min(learner.encoder_max_length, MAX_LENGTH)


def adaptation_length(learner: Learner, max_length: int | None = None) -> int:
    """Returns the maximum length of a text in tokens when the learner adapts, and when its classifier predicts.

    Args:
        learner: a learner.
        max_length: explicit length. Default: `encoder_length`, or the length in meta-training if that is longer.

    Raises:
        InputError: `max_length` exceeds the positions of the encoder, or is too short for `LearnerSettings`.
    """
    if max_length is None:
        return max(learner.tokens.max_length, encoder_length(learner))
    dataclasses.replace(learner.settings, max_length=max_length)  # refuses what is too short
    if max_length > (most := positions(learner.encoder.config)):
        raise InputError(f"max_length must be at most {most}, the positions of the encoder, got {max_length}")
    return max_length


@contextmanager
def reading_at(learner: Learner, max_length: int) -> Iterator[None]:
    """Lets the learner cut texts at `max_length` tokens within the block."""
    before = learner.tokens
    learner.tokens = before.at(max_length)
    try:
        yield
    finally:
        learner.tokens = before
