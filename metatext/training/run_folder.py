"""The output folder of a run: checks it, replaces an earlier run, and writes the finished learner."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from metatext.files import check_free, write_json
from metatext.hub.model_folder import METADATA
from metatext.learners.learner import Learner
from metatext.training.checkpoints import has_checkpoint, last_checkpoint
from metatext.training.settings import TrainConfig

logger = logging.getLogger(__name__)

TRACKER_RUN = "metatext"
"""The name of the run for experiment trackers, and of their folder in the output."""

_FIRST_FILES = {"checkpoints", TRACKER_RUN}  # written before the first checkpoint is complete


def check_output(output: Path, config: TrainConfig) -> None:
    """Refuses an output folder that holds something, or nothing to resume.

    Raises:
        FileExistsError: the folder holds a run and neither `resume` nor `overwrite` is set.
        InputError: `resume` without a checkpoint.
    """
    if config.resume:
        last_checkpoint(output)
    elif output.is_dir() and {p.name for p in output.iterdir()} <= _FIRST_FILES and not has_checkpoint(output):
        return  # a run that was interrupted before its first checkpoint has nothing to lose
    else:
        check_free(output, config.overwrite, "--resume to go on, or --overwrite to replace it")


def set_aside(output: Path) -> None:
    """Moves the existing run aside until the run that replaces it is finished."""
    replaced = _replaced(output)
    if replaced.exists():
        shutil.rmtree(output)  # the leftovers of an interrupted replacement
    else:
        output.rename(replaced)
    logger.info("what is replaced is kept in %s until the new learner is there", replaced)


def finish_run(output: Path, learner: Learner, summary: dict[str, Any]) -> None:
    """Writes `training.json` and the learner. The metadata come last: a run that has them is complete."""
    write_json(output / "training.json", summary)
    part = output / ".learner.part"
    for left in output.glob(".*learner.part*"):  # of a run that was killed at this point
        shutil.rmtree(left)
    learner.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda file: file.name == METADATA):
        file.replace(output / file.name)
    part.rmdir()
    if _replaced(output).exists():
        shutil.rmtree(_replaced(output))


def _replaced(output: Path) -> Path:
    """The folder that keeps a replaced run until the new one is finished."""
    return output.with_name(f".{output.name}.replaced")
