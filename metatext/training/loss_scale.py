"""Skips episodes with a non-finite loss or gradient, and adapts the loss scale of float16."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from metatext.training.checkpoints import RunState

logger = logging.getLogger(__name__)

FIRST_LOSS_SCALE = 2.0**12
_STEPS_BEFORE_LARGER_SCALE = 200
_MOST_BAD_IN_A_ROW = 10


def count_bad_episodes(state: RunState, bad: Sequence[bool], first: int, float16: bool) -> None:
    """Counts skipped episodes, and adjusts the loss scale of float16.

    The scale is halved after a step with a bad episode, and doubled after 200 steps without one.

    Args:
        state: changed in place.
        bad: whether each episode of the meta-batch had a non-finite loss or gradient.
        first: number of the first episode.
        float16: whether passes are in float16.

    Raises:
        FloatingPointError: ten episodes in a row were bad. The message says what to change.
    """
    overflow = float16 and state.loss_scale > 1.0  # a smaller scale may mend it, so it does not count in a row
    for number, is_bad in enumerate(bad):
        state.bad_in_a_row = state.bad_in_a_row + 1 if is_bad and not overflow else 0
        if is_bad:
            state.skipped += 1
            logger.warning("episode %d has a non-finite loss or gradient and is skipped", first + number)
        if state.bad_in_a_row >= _MOST_BAD_IN_A_ROW:
            raise FloatingPointError(
                f"{_MOST_BAD_IN_A_ROW} episodes in a row had a non-finite loss or gradient, the last is number "
                f"{first + number}: lower --inner-lr or --outer-lr, or use --mixed-precision bf16 or no"
            )
    if not float16:
        return
    state.steps_since_scale += 1
    if any(bad):
        state.loss_scale, state.steps_since_scale = max(state.loss_scale / 2, 1.0), 0
    elif state.steps_since_scale == _STEPS_BEFORE_LARGER_SCALE:
        state.loss_scale, state.steps_since_scale = state.loss_scale * 2, 0


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether no tensor holds an infinity or NaN."""
    return bool(torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(tensors)]).sum()))
