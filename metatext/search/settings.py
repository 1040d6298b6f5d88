"""Settings of a hyper-parameter search. Each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metatext.errors import InputError


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a hyper-parameter search."""

    space: tuple[str, ...] = (
        *("inner-lr=0.001..0.1", "outer-lr=3e-6..3e-4", "inner-steps=1..8", "scope=all,head,top:2"),
        "order=prototypical,first-order,full",
    )
    """What is searched: some of these names, each alone, as name=low..high, or as name=a,b,c.
    All other options stay as given. A prototypical network has no inner rate, steps or scope."""
    trials: int = 20
    """Trials of the study, on all machines together. Pruned trials count, interrupted ones do not."""
    objective: Literal["accuracy", "loss"] = "accuracy"
    """What is optimised: the best validation accuracy, or the best validation loss.
    The loss separates trials better if few classes are held out."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe samples near good trials (Bergstra 2011). grid runs the combinations in random order.
    A range of learning rates gives a grid its two ends and one value per decade."""
    pruner: Literal["median", "halving", "none"] = "median"
    """Which trials stop at a validation. median: from the sixth on, those below the median of the others.
    halving: all but the best quarter, after eval_every steps, four times as many, and so on."""
    storage: str | None = None
    """Database that machines share: any URL that Optuna accepts, such as postgresql://user@host/name.
    By default study.db in the output folder."""
    study: str = "metatext"
    """Name of the study in the database."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"trials must be at least 1, got {self.trials}")
        for name, allowed in (
            ("objective", ("accuracy", "loss")),
            ("sampler", ("tpe", "random", "grid")),
            ("pruner", ("median", "halving", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
