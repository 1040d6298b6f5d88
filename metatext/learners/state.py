"""The files of a saved learner: `learner.safetensors`, `pretrained.safetensors` and `metatext.json`."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metatext.errors import InputError
from metatext.hub.model_folder import METADATA, read_metadata, resolve_folder
from metatext.learners.settings import LearnerSettings

logger = logging.getLogger(__name__)

UNTRAINED = "no meta-training"  # the method of a learner that was only saved
_STATE = "learner.safetensors"  # head and inner learning rates; the encoder is in model.safetensors
_PRETRAINED = "pretrained.safetensors"  # the encoder before meta-training, float16
_PROTOTYPES, _CENTROIDS, _RATES = "source_prototypes", "source_centroids", "log_inner_lr"  # tensors of _STATE


class SourceClasses(NamedTuple):
    """What is remembered of the sources' classes in each blend of the encoder, float32 (see `weight_blending`)."""

    names: list[str]
    prototypes: Tensor  # directions from their domain's centre, (blends, classes, hidden)
    centroids: Tensor | None = None  # (blends, classes, hidden); a learner of an earlier version has none


class LearnerState(NamedTuple):
    """What a learner has beside its encoder's weights, as it is saved."""

    parameters: dict[str, Tensor]  # of the head and of adapters, by their name in the learner
    log_inner_lr: Tensor
    source_classes: SourceClasses | None
    pretrained: dict[str, Tensor] | None


def write_state(folder: Path, state: LearnerState) -> None:
    """Writes all but `metatext.json`."""
    from safetensors.torch import save_file

    tensors = state.parameters | {_RATES: state.log_inner_lr.detach()}
    if state.source_classes:
        tensors[_PROTOTYPES] = state.source_classes.prototypes
        if state.source_classes.centroids is not None:
            tensors[_CENTROIDS] = state.source_classes.centroids
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, folder / _STATE)
    if state.pretrained:
        save_file({name: value.contiguous() for name, value in state.pretrained.items()}, folder / _PRETRAINED)


def read_state(folder: Path, metadata: dict[str, Any]) -> LearnerState:
    """Reads what `write_state` wrote.

    Raises:
        InputError: a file cannot be read.
    """
    parameters = _read_tensors(folder / _STATE)
    pretrained = None  # as in a learner of an earlier version
    if (folder / _PRETRAINED).exists():
        pretrained = _read_tensors(folder / _PRETRAINED)
    source_classes = None
    if _PROTOTYPES in parameters:
        remembered = parameters.pop(_PROTOTYPES), parameters.pop(_CENTROIDS, None)
        source_classes = SourceClasses(metadata["source_classes"], *remembered)
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


def restore_rates(into: Tensor, saved: Tensor, before: dict[str, Any], now: LearnerSettings) -> None:
    """Copies saved inner learning rates; they start anew where the settings `before` gave them another meaning.

    Args:
        into: logarithms of the rates, (layer groups, inner steps), or a vector with a rate a parameter.
        saved: the same of the saved learner; further inner steps take its last step's rates.
        before: the saved settings.
        now: the settings of the learner that `into` belongs to.
    """
    old = dataclasses.asdict(LearnerSettings()) | before
    names = ("scope", "inner_lr", "inner_optimizer", "inner_rates")
    changed = [name for name in names if old[name] != getattr(now, name)]
    if changed or saved.shape[0] != into.shape[0]:
        logger.info("the inner learning rates start anew, with another %s", ", ".join(changed) or "encoder")
    elif into.ndim == 1:
        into.copy_(saved)
    elif saved.shape[1]:
        into.copy_(saved[:, torch.arange(now.inner_steps).clamp(max=saved.shape[1] - 1)])


def open_model_folder(name: str | Path, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a learner or encoder, and what `metatext.json` says (nothing for an encoder).

    Args:
        name: Hub id or folder.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: it holds a classifier, no model, or no weights in safetensors format; its metadata is damaged.
    """
    folder = resolve_folder(str(name), revision)
    saved = read_metadata(folder)
    if saved and saved.get("kind") != "learner":
        raise InputError(f"{folder} holds a {saved.get('kind')}, but what is needed is a meta-trained learner")
    if saved and "settings" not in saved:
        raise InputError(f"{folder / METADATA} is damaged: it has no settings; save the learner again")
    if not (folder / "config.json").exists():
        raise InputError(f"{name} holds no model: there is no config.json (expected a learner or an encoder)")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{name} holds no weights in safetensors format; metatext loads no pickles such as *.bin")
    return folder, saved


def saved_settings(name: str | Path) -> dict[str, Any]:
    """The settings of a saved learner by its folder or Hub id; nothing for an encoder."""
    settings: dict[str, Any] = read_metadata(resolve_folder(str(name))).get("settings", {})
    return settings


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
