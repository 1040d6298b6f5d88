"""Learning rate and weight decay of each parameter in the outer loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metatext.training.adversary import ADVERSARY_PREFIX
from metatext.training.settings import TrainConfig


def parameter_groups(parameters: Mapping[str, Tensor], config: TrainConfig) -> list[dict[str, Any]]:
    """Groups the parameters of a learner and its adversary for a torch optimiser.

    Each group keeps its peak learning rate as `peak_lr`.
    """

    def rate_and_decay(name: str, parameter: Tensor) -> tuple[float, float]:
        if name.startswith("encoder."):
            return config.outer_lr, config.weight_decay if parameter.ndim > 1 else 0.0
        learned = name in ("head.weight", "head.bias") or name.startswith(ADVERSARY_PREFIX)
        return config.head_lr if learned else config.rate_lr, 0.0

    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(rate_and_decay(name, parameter), []).append(parameter)
    return [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
