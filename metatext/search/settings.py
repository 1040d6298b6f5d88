"""Settings of a hyper-parameter search: each is a field here and an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metatext.errors import InputError


@dataclass(frozen=True)
class SearchSettings:
    """How hyper-parameters are searched."""

    space: tuple[str, ...] = (
        *("inner-lr=0.001..0.1", "outer-lr=3e-6..3e-4", "inner-steps=1..8", "scope=all,head,top:2"),
        "order=prototypical,first-order,full",
    )
    """What is searched: some of these names, each alone, as name=low..high or as name=a,b,c. All else stays as given. A
    prototypical network has no inner rate, steps or scope."""
    trials: int = 20
    """Trials of the study, on all machines together; pruned ones count, interrupted ones do not."""
    objective: Literal["accuracy", "loss"] = "accuracy"
    """What trials are judged by: the best validation accuracy; or the loss there, which tells more trials apart where
    few classes are held out."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: near what did well (Bergstra 2011). grid: up to all combinations, in random order; a range of learning rates
    gives its ends and one value a decade."""
    pruner: Literal["median", "halving", "none"] = "median"
    """Trials to stop at a validation: from the sixth on, those below the median of the others; or, by successive
    halving, all but the best quarter after eval_every steps, four times as many, and so on."""
    storage: str | None = None
    """Database that machines share, such as postgresql://user@host/name, any URL that Optuna takes; by default study.db
    in the output folder."""
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
