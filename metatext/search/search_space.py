"""The search space: the values that a trial may draw, and the settings that result from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metatext.errors import InputError
from metatext.learners.settings import LearnerSettings
from metatext.search.settings import SearchSettings
from metatext.training.settings import TrainConfig

_KINDS: dict[str, type] = {"order": str, "outer_lr": float, "inner_lr": float, "inner_steps": int, "scope": str}
_ORDERS = ("prototypical", "first-order", "full")
_INNER_LOOP_NAMES = {"inner_lr", "inner_steps", "scope"}


@dataclass(frozen=True)
class Range:
    """The integers from low to high, or learning rates from low to high, drawn on a logarithmic scale."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"

    def on_grid(self) -> tuple[float, ...]:
        """Returns every integer, or for learning rates both ends and about one value per decade between them.

        Example:
            >>> Range(1, 4).on_grid(), Range(1e-3, 1e-1).on_grid()
            ((1, 2, 3, 4), (0.001, 0.01, 0.1))
        """
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1))
        points = 1 + max(1, round(math.log10(self.high / self.low)))
        return tuple(dict.fromkeys(float(f"{rate:.3g}") for rate in np.geomspace(self.low, self.high, points)))


SearchSpace = Mapping[str, Range | tuple[Any, ...]]
"""The range or the values of each name. `order` comes first, because it decides whether others are drawn."""


def parse_space(words: Iterable[str]) -> SearchSpace:
    """Parses `--space`: names with their default values, name=low..high, or name=a,b,c.

    Raises:
        InputError: an unknown name, a name given twice, or values that cannot be read.

    Example:
        >>> parse_space(["scope=all,head"])
        {'scope': ('all', 'head')}
    """
    defaults = dict(word.split("=") for word in SearchSettings().space)
    given: dict[str, str] = {}
    for word in words:
        name, _, values = word.partition("=")
        name = name.replace("_", "-")
        if name not in defaults:
            raise InputError(f"--space searches {', '.join(defaults)}, each as a name or as name=values; got {word!r}")
        if name in given:
            raise InputError(f"--space names {name} twice")
        given[name] = values or defaults[name]
    if not given:
        raise InputError(f"--space is empty: name some of {', '.join(defaults)}")
    return {name: _read(flag, given[flag]) for name in _KINDS if (flag := name.replace("_", "-")) in given}


def _read(flag: str, text: str) -> Range | tuple[Any, ...]:
    """Parses the range or the values of one name."""
    kind = _KINDS[flag.replace("-", "_")]
    try:
        if kind is str:
            values = tuple(text.split(","))
            if flag == "order" and not set(values) <= set(_ORDERS):
                raise ValueError
            return tuple(dict.fromkeys(values))
        low, dots, high = text.partition("..")
        if not dots:
            return tuple(dict.fromkeys(kind(value) for value in text.split(",")))
        bounds = Range(kind(low), kind(high))
        if not 0 < bounds.low <= bounds.high:
            raise ValueError
        return bounds
    except ValueError:
        allowed = {
            str: f"{flag}={','.join(_ORDERS)}, or some of these",
            int: f"{flag}=1..5 or {flag}=1,3,5",
            float: f"{flag}=0.001..0.1 or {flag}=0.001,0.01",
        }[kind]
        raise InputError(f"--space {flag}={text} cannot be read: write {allowed}") from None


def is_drawn(name: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a trial with these `values` draws `name`. A prototypical network has no inner loop."""
    return values.get("order") != "prototypical" or name not in _INNER_LOOP_NAMES


def combinations(space: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Returns all combinations that trials can draw, without repeats."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for chosen in itertools.product(*space.values()):
        candidate = dict(zip(space, chosen, strict=True))
        values = {name: value for name, value in candidate.items() if is_drawn(name, candidate)}
        found[tuple(values.items())] = values
    return list(found.values())


def extremes(space: SearchSpace) -> list[dict[str, Any]]:
    """Returns the combinations of all values and range ends. If any combination is invalid, one of these is."""
    return combinations({n: (v.low, v.high) if isinstance(v, Range) else v for n, v in space.items()})


def configure(
    values: Mapping[str, Any], learner: LearnerSettings, config: TrainConfig
) -> tuple[LearnerSettings, TrainConfig]:
    """Returns the settings of a trial.

    The values replace those of `learner` and `config`. Without an `order` among the values, full MAML stays full with
    any number of inner steps.

    Args:
        values: the values that the trial drew, by name.
        learner: the other settings of the learner.
        config: the other settings of the outer loop.

    Raises:
        InputError: the values contradict each other or the other settings.
    """
    order, inner = values.get("order"), {name: value for name, value in values.items() if name in _INNER_LOOP_NAMES}
    steps = 0 if order == "prototypical" else inner.get("inner_steps", learner.inner_steps)
    if order in ("first-order", "full") and steps == 0:
        raise InputError(f"order={order} needs inner steps")
    full = order == "full" if order else 0 < learner.second_order_steps == learner.inner_steps
    second_order_steps = steps if full else 0 if order else learner.second_order_steps
    learner = dataclasses.replace(learner, **inner | {"inner_steps": steps, "second_order_steps": second_order_steps})
    return learner, dataclasses.replace(config, outer_lr=values.get("outer_lr", config.outer_lr))


def combination_in_words(values: Mapping[str, Any]) -> str:
    """Formats names and values, with learning rates to three digits."""
    return ", ".join(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items())
