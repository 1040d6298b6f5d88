"""Reads and writes the files of a saved learner.

- `learner.safetensors`: head, adapters, inner learning rates and source classes;
- `pretrained.safetensors`: the encoder's weights before meta-training, float16; not with adapters, whose encoder stays;
- `metatext.json`: settings and provenance.

The encoder itself is an ordinary transformers folder (`config.json`, `model.safetensors`), unless the learner has
adapters and its encoder is on the Hub (`metatext.learners.base_encoder`).
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metatext.encoders.lora import current_name
from metatext.errors import InputError
from metatext.hub.model_folder import (
    BASE_ENCODER,
    METADATA,
    check_encoder_files,
    read_metadata,
    resolve_folder,
)
from metatext.learners.settings import LearnerSettings

logger = logging.getLogger(__name__)

UNTRAINED = "no meta-training"  # `method` in the metadata of a learner that was not meta-trained
_STATE, _PRETRAINED = "learner.safetensors", "pretrained.safetensors"
_PROTOTYPES, _CENTROIDS, _RATES = "source_prototypes", "source_centroids", "log_inner_lr"  # names of tensors in _STATE


class SourceClasses(NamedTuple):
    """Prototypes and centroids of the source classes for each encoder blend in `weight_blending.BLENDS`, float32."""

    names: list[str]
    """Class names, in the order of the tensors."""
    prototypes: Tensor
    """Unit directions from the centre of the domain to the class, (blends, classes, hidden)."""
    centroids: Tensor | None = None
    """Mean feature of each class, (blends, classes, hidden). None in learners saved by older versions."""


class LearnerState(NamedTuple):
    """Everything that a saved learner holds besides encoder and metadata."""

    parameters: dict[str, Tensor]
    """Parameters of the head and the adapters, by their name in the learner."""
    log_inner_lr: Tensor
    """Logarithms of the inner learning rates."""
    source_classes: SourceClasses | None
    """Prototypes and centroids of the source classes; None before meta-training has ended."""
    pretrained: dict[str, Tensor] | None
    """Encoder parameters before meta-training, float16; None if unknown."""


def write_state(folder: Path, state: LearnerState, half: bool = False) -> None:
    """Writes `learner.safetensors` and, if the pretrained weights are known, `pretrained.safetensors`.

    Args:
        folder: folder of the learner.
        state: what to write.
        half: write matrices (adapters, prototypes and centroids) in half precision.
    """
    from safetensors.torch import save_file

    tensors = dict(state.parameters)
    if state.source_classes:
        tensors[_PROTOTYPES] = state.source_classes.prototypes
        if state.source_classes.centroids is not None:
            tensors[_CENTROIDS] = state.source_classes.centroids
    if half:
        tensors = {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}
    tensors[_RATES] = state.log_inner_lr.detach()
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, folder / _STATE)
    if state.pretrained:
        save_file({name: value.contiguous() for name, value in state.pretrained.items()}, folder / _PRETRAINED)


def read_state(folder: Path, metadata: dict[str, Any]) -> LearnerState:
    """Reads what `write_state` wrote.

    Args:
        folder: folder of a saved learner.
        metadata: content of its `metatext.json`.

    Raises:
        InputError: a file cannot be read.
    """
    parameters = {current_name(name): value.float() for name, value in _read_tensors(folder / _STATE).items()}
    pretrained = None
    if (folder / _PRETRAINED).exists():
        pretrained = _read_tensors(folder / _PRETRAINED)
    source_classes = None
    if _PROTOTYPES in parameters:
        prototypes, centroids = parameters.pop(_PROTOTYPES), parameters.pop(_CENTROIDS, None)
        source_classes = SourceClasses(metadata["source_classes"], prototypes, centroids)
    return LearnerState(parameters, parameters.pop(_RATES), source_classes, pretrained)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the learner in {path.parent} is damaged: {path.name} cannot be read; save it again"
        ) from error


def restore_rates(
    log_rates: Tensor, saved_log_rates: Tensor, old_settings: dict[str, Any], settings: LearnerSettings
) -> None:
    """Copies saved inner learning rates into `log_rates`.

    `log_rates` keeps its values if a setting has changed that decides what the rates apply to, or where they start.
    Inner steps beyond the saved ones get the rates of the last saved step.

    Args:
        log_rates: logarithms of the rates, (layer groups, inner steps) or, with a rate per parameter, (parameters,).
            Changed in place.
        saved_log_rates: the same of the saved learner.
        old_settings: settings of the saved learner; fields that it lacks had their defaults.
        settings: settings of the learner that `log_rates` belongs to.
    """
    old_values = dataclasses.asdict(LearnerSettings()) | old_settings
    names = ("scope", "inner_lr", "inner_optimizer", "inner_rates")
    changed = [name for name in names if old_values[name] != getattr(settings, name)]
    if changed or saved_log_rates.shape[0] != log_rates.shape[0]:
        logger.info("the inner learning rates start anew, with another %s", ", ".join(changed) or "encoder")
    elif log_rates.ndim == 1:
        log_rates.copy_(saved_log_rates)
    elif saved_log_rates.shape[1]:
        steps = torch.arange(settings.inner_steps).clamp(max=saved_log_rates.shape[1] - 1)
        log_rates.copy_(saved_log_rates[:, steps])


def open_model_folder(name: str | Path, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Finds the folder of a learner or an encoder; downloads it if `name` is a Hub id.

    Args:
        name: Hub id or folder.
        revision: branch, tag or commit on the Hub.

    Returns:
        The folder, and the content of its `metatext.json`. The content is empty for an encoder.

    Raises:
        InputError: the folder holds a classifier, no model, or no weights in safetensors format; or its metadata is
            damaged.
    """
    folder = resolve_folder(str(name), revision)
    saved = read_metadata(folder)
    if saved and saved.get("kind") != "learner":
        raise InputError(f"{folder} holds a {saved.get('kind')}, but what is needed is a meta-trained learner")
    if saved and "settings" not in saved:
        raise InputError(f"{folder / METADATA} is damaged: it has no settings; save the learner again")
    if BASE_ENCODER not in saved:
        check_encoder_files(folder, name)
    return folder, saved


def saved_settings(name: str | Path) -> dict[str, Any]:
    """Returns the settings of a saved learner, given by its folder or Hub id; empty for an encoder."""
    settings: dict[str, Any] = read_metadata(resolve_folder(str(name))).get("settings", {})
    return settings


def merge_settings(saved: dict[str, Any], given: dict[str, Any], name: str | Path) -> LearnerSettings:
    """Combines saved settings with given ones, which take precedence.

    Args:
        saved: settings of a saved learner; empty for an encoder.
        given: settings of the caller.
        name: Hub id or folder of the model, for error messages.

    Raises:
        InputError: an unknown setting; a change of a setting that is part of the trained model (head, pooling, text
            prefix, classes, and adapters); or settings that contradict each other.
    """
    import difflib

    fields = [field.name for field in dataclasses.fields(LearnerSettings)]
    for key in given:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(fields)}"
            raise InputError(f"unknown setting {key!r}: {hint}")
    unchangeable = ["head", "pooling", "text_prefix", "classes"]
    if saved.get("scope") == "lora":
        unchangeable += ["scope", "lora_rank"]
    for key in unchangeable:
        if not saved or key not in given:
            continue
        wanted = tuple(given[key]) if key == "classes" else given[key]
        if wanted != (tuple(saved[key]) if key == "classes" else saved[key]):
            raise InputError(f"{name} was trained with {key}={saved[key]!r}, which cannot be changed to {given[key]!r}")
    return LearnerSettings(**(saved | given))
