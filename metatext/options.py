"""What the settings share: checks of values, and the values implied by files that predate an option."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from metatext.errors import InputError


def check_at_least(settings: Any, least: int, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= least:  # nor is it NaN
            raise InputError(f"{name} must be at least {least}, got {getattr(settings, name)}")


def check_finite(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) == math.inf:
            raise InputError(f"{name} must be a number of passes over the texts, got inf")


def check_positive(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise InputError(f"{name} must be above 0, got {getattr(settings, name)}")


LEGACY_DEFAULTS = {"names": False, "setfit_steps": None, "fine_tune_epochs": 0.0}
"""What was done before there was an option for it, where this is not its default."""


def defaults_of(*kinds: type) -> dict[str, Any]:
    """The value of every option of these settings, by its name, as JSON has it, that a note which lacks it meant."""
    found = {k: v for kind in kinds for k, v in json.loads(json.dumps(dataclasses.asdict(kind()))).items()}
    return found | {name: value for name, value in LEGACY_DEFAULTS.items() if name in found}
