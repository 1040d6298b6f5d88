"""Checkpoints of meta-training in safetensors and JSON. A checkpoint is complete or absent, and resumes exactly."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metatext.data.settings import EpisodeSettings
from metatext.encoders.lora import current_name
from metatext.errors import InputError
from metatext.files import new_folder, write_json
from metatext.learners.settings import LearnerSettings
from metatext.options import defaults_of
from metatext.training.settings import TrainConfig

SAMPLER = ("ways", "shots", "queries", "seed", "shared_labels", "varied", "temperature", "hard")
"""The sampler's settings that a checkpoint records."""

_FIXED_ON_RESUME = {
    *("encoder", *SAMPLER, "domains", "valid_domains", "target_texts"),
    *("meta_steps", "meta_batch_size", "eval_every", "eval_episodes", "patience"),
    *("outer_lr", "head_lr", "rate_lr", "weight_decay", "warmup_fraction", "max_grad_norm", "mixed_precision"),
    *("multi_step_fraction", "first_order_fraction", "names", "adversarial"),
    *(field.name for field in dataclasses.fields(LearnerSettings) if field.name not in ("kept_graphs", "batch_size")),
}


@dataclass
class RunState:
    """The progress of a run, saved in each checkpoint."""

    step: int = 0
    best_step: int = -1
    best_accuracy: float = -1.0
    best_loss: float = sys.float_info.max
    validations_since_best: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    loss_scale: float = 1.0
    steps_since_scale: int = 0


def step_folder(output: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` outer steps."""
    return output / "checkpoints" / f"step-{step:06d}"


def has_checkpoint(output: Path) -> bool:
    """Whether the run in `output` has a checkpoint."""
    return any((output / "checkpoints").glob("step-*"))


def last_checkpoint(output: Path) -> Path:
    """The folder of the newest checkpoint of the run in `output`.

    Raises:
        InputError: there is none.
    """
    folders = sorted((output / "checkpoints").glob("step-*"))
    if not folders:
        again = ", or with --overwrite" if output.exists() else ""
        raise InputError(f"{output} holds no checkpoint to resume: start without --resume{again}")
    return folders[-1]


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: RunState,
    history: list[dict[str, float]],
    config: Mapping[str, Any],
) -> None:
    """Writes the weights, the optimiser's moments, the run's state and its configuration."""
    with new_folder(folder, overwrite=True) as part:
        weights = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
        save_file(weights, part / "weights.safetensors")
        moments = optimizer.state_dict()["state"].items()
        flat = {f"{i}.{name}": value.cpu().contiguous() for i, values in moments for name, value in values.items()}
        save_file(flat, part / "optimizer.safetensors")
        write_json(part / "state.json", {"state": dataclasses.asdict(state), "history": history})
        write_json(part / "config.json", dict(config))


def prune_checkpoints(folder: Path, keep: set[Path]) -> None:
    """Removes all checkpoints except `keep`, and the leftovers of an interrupted save."""
    for old in [*folder.glob("step-*"), *folder.glob(".step-*")]:
        if old not in keep:
            shutil.rmtree(old)


def load_checkpoint(
    folder: Path, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]
) -> tuple[RunState, list[dict[str, float]]]:
    """Loads the optimiser's moments, and returns the run's state and validation history.

    Args:
        folder: the checkpoint.
        optimizer: its moments are replaced.
        config: the options of the resumed run.

    Raises:
        InputError: the run was started with options that give another result.
    """
    saved = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    defaults = defaults_of(EpisodeSettings, TrainConfig, LearnerSettings) | {"classes": "", "target_texts": ""}
    before = defaults | before  # a checkpoint may predate an option
    for key in sorted(_FIXED_ON_RESUME):
        if before[key] != config[key]:
            raise InputError(
                f"{folder.parent.parent} was started with {key}={before[key]}, not {config[key]}: "
                "resume with the same options, or start anew with --overwrite"
            )
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return RunState(**saved["state"]), saved["history"]


def read_weights(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """The parameters of a checkpoint, by name."""
    weights = load_file(folder / "weights.safetensors", device=str(device))
    return {current_name(name): value for name, value in weights.items()}
