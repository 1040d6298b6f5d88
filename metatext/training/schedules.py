"""What changes from step to step: learning rates, the order of texts, and the weights of MAML++."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from metatext.training.settings import TrainConfig


def multi_step_weights(config: TrainConfig, inner_steps: int, step: int) -> tuple[list[float] | None, int | None]:
    """MAML++'s weights of the query loss after each inner step, and order, in outer step `step`; None: as set.

    The weights go linearly from equal ones to all on the last inner step (Antoniou 2019, section 4).
    """
    order = 0 if step < config.first_order_fraction * config.meta_steps else None
    steps = config.multi_step_fraction * config.meta_steps
    if step >= steps or inner_steps < 2:
        return None, order
    share = (1 - step / steps) / inner_steps
    return [share] * (inner_steps - 1) + [1 - (inner_steps - 1) * share], order


def learning_rate(step: int, steps: int, warmup_fraction: float) -> float:
    """Of the peak, in step 0, 1, ..: linear warm-up, then linear decay, to 0 after the last step."""
    warmup = max(1, round(warmup_fraction * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1))


def shuffled_batches(texts: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[list[int]]:
    """Rows of each step's batch, over shuffled epochs; where one ends within a batch, a text may be in it twice."""
    generator, rows = torch.Generator().manual_seed(seed), list[int]()
    for _ in range(steps):
        while len(rows) < min(batch_size, texts):
            rows += torch.randperm(texts, generator=generator).tolist()
        yield rows[:batch_size]
        rows = rows[batch_size:]
