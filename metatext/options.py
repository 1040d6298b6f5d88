"""Checks of setting values, and the values implied by saved files that predate an option."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from metatext.errors import InputError


def check_at_least(settings: Any, least: int, *names: str) -> None:
    """Checks that the fields `names` of `settings` are at least `least`.

    Raises:
        InputError: a field is smaller, or is NaN.
    """
    for name in names:
        if not getattr(settings, name) >= least:  # `not >=` also catches NaN
            raise InputError(f"{name} must be at least {least}, got {getattr(settings, name)}")


def check_finite(settings: Any, *names: str) -> None:
    """Checks that the fields `names` of `settings`, numbers of passes over the texts, are not infinite.

    Raises:
        InputError: a field is infinity.
    """
    for name in names:
        if getattr(settings, name) == math.inf:
            raise InputError(f"{name} must be a number of passes over the texts, got inf")


def check_positive(settings: Any, *names: str) -> None:
    """Checks that the fields `names` of `settings` are above 0.

    Raises:
        InputError: a field is 0 or negative.
    """
    for name in names:
        if getattr(settings, name) <= 0:
            raise InputError(f"{name} must be above 0, got {getattr(settings, name)}")


LEGACY_DEFAULTS: dict[str, dict[str, Any]] = {
    "TrainConfig": {"names": False},
    "EvaluateSettings": {"setfit_steps": None, "fine_tune_epochs": 0.0},
}
"""Values implied by saved files that predate an option, for options whose default is another value."""


def defaults_of(*kinds: type) -> dict[str, Any]:
    """Returns the value that a saved file implies for each option that it lacks.

    Args:
        kinds: dataclasses of settings, each with a default for every field.

    Returns:
        Option name -> value in JSON form (tuples become lists): the one in `LEGACY_DEFAULTS`, else the field's
        default.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        found |= json.loads(json.dumps(dataclasses.asdict(kind()))) | LEGACY_DEFAULTS.get(kind.__name__, {})
    return found
