"""The output folder of a run: what may be in it, and how it is replaced."""

from __future__ import annotations

from pathlib import Path

from metatext.files import check_free
from metatext.training.checkpoints import has_checkpoint, last_checkpoint
from metatext.training.settings import TrainConfig

TRACKER_RUN = "metatext"  # name of the run for trackers, and of their folder in the output
FIRST_FILES = {"checkpoints", TRACKER_RUN}  # what is written before the first checkpoint is


def check_output(output: Path, config: TrainConfig) -> None:
    """Refuses an output folder that holds something, or nothing to resume.

    Raises:
        FileExistsError: the folder holds a run and neither `resume` nor `overwrite` is set.
        InputError: `resume` without a checkpoint.
    """
    if config.resume:
        last_checkpoint(output)
    elif output.is_dir() and {p.name for p in output.iterdir()} <= FIRST_FILES and not has_checkpoint(output):
        return  # interrupted before its first checkpoint: nothing to lose
    else:
        check_free(output, config.overwrite, "--resume to go on, or --overwrite to replace it")
