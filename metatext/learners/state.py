"""The files of a saved learner beside its encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metatext.errors import InputError
from metatext.hub.model_folder import read_metadata, resolve_folder
from metatext.learners.settings import LearnerSettings

UNTRAINED = "no meta-training"  # the method of a learner that was only saved
STATE_FILE = "learner.safetensors"  # head and inner learning rates; the encoder is in model.safetensors
PROTOTYPES = "source_prototypes"
CENTROIDS = "source_centroids"
PRETRAINED_FILE = "pretrained.safetensors"  # the encoder before meta-training, float16


class SourceClasses(NamedTuple):
    """What is remembered of the sources' classes in each blend of the encoder, float32 (see `blend`)."""

    names: list[str]
    prototypes: Tensor  # directions from their domain's centre, (blends, classes, hidden)
    centroids: Tensor | None = None  # (blends, classes, hidden); a learner of an earlier version has none


def saved_settings(name: str | Path) -> dict[str, Any]:
    """The settings of a saved learner by its folder or Hub id; nothing for an encoder."""
    return read_metadata(resolve_folder(str(name))).get("settings", {})


def merge_settings(saved: dict[str, Any], given: dict[str, Any], name: str | Path) -> LearnerSettings:
    """Saved values, replaced by those given."""
    import difflib

    fields = [field.name for field in dataclasses.fields(LearnerSettings)]
    for key in given:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(fields)}"
            raise InputError(f"unknown setting {key!r}: {hint}")
    names = (
        "head",
        "pooling",
        "text_prefix",
        "classes",
        *(("scope", "lora_rank") if saved.get("scope") == "lora" else ()),
    )
    fixed = [key for key in names if saved and key in given]
    for key in fixed:
        wanted = tuple(given[key]) if key == "classes" else given[key]
        if wanted != (tuple(saved[key]) if key == "classes" else saved[key]):
            raise InputError(f"{name} was trained with {key}={saved[key]!r}, which cannot be changed to {given[key]!r}")
    return LearnerSettings(**(saved | given))
