"""Schedules over steps: the learning rate, the order of texts, and the query-loss weights of MAML++."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from metatext.training.settings import TrainConfig


def multi_step_weights(config: TrainConfig, inner_steps: int, step: int) -> tuple[list[float] | None, int | None]:
    """The query-loss weights and the order of MAML++ in one outer step (Antoniou 2019, section 4).

    The weights move linearly from equal ones to all weight on the last inner step.

    Args:
        config: `multi_step_fraction` and `first_order_fraction` say how long each schedule lasts.
        inner_steps: inner steps of the learner.
        step: the outer step, from 0.

    Returns:
        The weight of the query loss after each inner step (None: all on the last), and `second_order_steps` for this
        outer step (None: the learner's own).
    """
    order = 0 if step < config.first_order_fraction * config.meta_steps else None
    steps = config.multi_step_fraction * config.meta_steps
    if step >= steps or inner_steps < 2:
        return None, order
    share = (1 - step / steps) / inner_steps
    return [share] * (inner_steps - 1) + [1 - (inner_steps - 1) * share], order


def learning_rate(step: int, steps: int, warmup_fraction: float) -> float:
    """The share of the peak learning rate in step 0, 1, ...: linear warm-up, then linear decay to 0.

    Example:
        >>> [round(learning_rate(step, steps=5, warmup_fraction=0.4), 2) for step in range(5)]
        [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = max(1, round(warmup_fraction * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1))


def shuffled_batches(texts: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[list[int]]:
    """Yields the row numbers of each step's batch, epoch after shuffled epoch.

    A batch that spans two epochs may hold a text twice.
    """
    generator, rows = torch.Generator().manual_seed(seed), list[int]()
    for _ in range(steps):
        while len(rows) < min(batch_size, texts):
            rows += torch.randperm(texts, generator=generator).tolist()
        yield rows[:batch_size]
        rows = rows[batch_size:]
