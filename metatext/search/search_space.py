"""The search space: which values a trial may draw, and the settings that they give."""

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
    """The integers from low to high, or the learning rates between them on a logarithmic scale."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"

    def on_grid(self) -> tuple[float, ...]:
        """Every integer, or both ends of a range of learning rates and about one value per decade between."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1))
        points = 1 + max(1, round(math.log10(self.high / self.low)))
        return tuple(dict.fromkeys(float(f"{rate:.3g}") for rate in np.geomspace(self.low, self.high, points)))


SearchSpace = Mapping[str, Range | tuple[Any, ...]]
"""The range or the values of each name. The order comes first, because other names depend on it."""


def parse_space(words: Iterable[str]) -> SearchSpace:
    """Parses `--space`: names with their default values, name=low..high, or name=a,b,c.

    Raises:
        InputError: an unknown name, a name given twice, or values that cannot be read.

    Example:
        >>> parse_space(["scope=all,head"])
        {'scope': ('all', 'head')}
    """
    usual = dict(word.split("=") for word in SearchSettings().space)
    given: dict[str, str] = {}
    for word in words:
        name, _, values = word.partition("=")
        name = name.replace("_", "-")
        if name not in usual:
            raise InputError(f"--space searches {', '.join(usual)}, each as a name or as name=values; got {word!r}")
        if name in given:
            raise InputError(f"--space names {name} twice")
        given[name] = values or usual[name]
    if not given:
        raise InputError(f"--space is empty: name some of {', '.join(usual)}")
    return {name: _read(flag, given[flag]) for name in _KINDS if (flag := name.replace("_", "-")) in given}


def _read(flag: str, text: str) -> Range | tuple[Any, ...]:
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
        found = Range(kind(low), kind(high))
        if not 0 < found.low <= found.high:
            raise ValueError
        return found
    except ValueError:
        allowed = {
            str: f"{flag}={','.join(_ORDERS)}, or some of these",
            int: f"{flag}=1..5 or {flag}=1,3,5",
            float: f"{flag}=0.001..0.1 or {flag}=0.001,0.01",
        }[kind]
        raise InputError(f"--space {flag}={text} cannot be read: write {allowed}") from None


def is_drawn(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a trial with these `values` draws `name`. A prototypical network has no inner loop."""
    return values.get("order") != "prototypical" or name not in _INNER_LOOP_NAMES


def combinations(space: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """All combinations that trials can draw, without repeats."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for chosen in itertools.product(*space.values()):
        every = dict(zip(space, chosen, strict=True))
        values = {name: value for name, value in every.items() if is_drawn(name, every)}
        found[tuple(values.items())] = values
    return list(found.values())


def extremes(space: SearchSpace) -> list[dict[str, Any]]:
    """The combinations of all values and range ends. If a combination is invalid, one of these is."""
    return combinations({n: (v.low, v.high) if isinstance(v, Range) else v for n, v in space.items()})


def configure(
    values: Mapping[str, Any], learner: LearnerSettings, config: TrainConfig
) -> tuple[LearnerSettings, TrainConfig]:
    """The settings of a trial.

    If the order is not searched, that of `learner` stays. Full MAML stays full with any number of inner steps.

    Args:
        values: what the trial drew.
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
