"""The files of a study: the table of trials, a script that trains the best one, and the importance of each name."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metatext.errors import InputError
from metatext.evaluation.plot import pyplot, save_figure
from metatext.files import absolute, new_file, write_text
from metatext.search.search_space import configure
from metatext.training.job import Job

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The completed and pruned trials, of all machines."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]


def best_of(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The completed trial with the best objective. The other of accuracy and loss breaks ties."""

    def merit(trial: optuna.trial.FrozenTrial) -> tuple[float, float]:
        accuracy, loss = trial.user_attrs["best_accuracy"], trial.user_attrs["best_loss"]
        return (accuracy, -loss) if objective_of(study) == "accuracy" else (-loss, accuracy)

    return max((trial for trial in finished(study) if trial.state.name == "COMPLETE"), key=merit, default=None)


def objective_of(study: optuna.Study) -> str:
    """The objective of the study: accuracy or loss."""
    return "accuracy" if study.direction.name == "MAXIMIZE" else "loss"


def write_trials(study: optuna.Study, space: Iterable[str], path: Path) -> None:
    """Writes a CSV row per trial: state, objective (the best so far if it was stopped), last step, seconds, values."""
    names, objective = list(space), objective_of(study)
    best = max if objective == "accuracy" else min
    with new_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["trial", "state", objective, "step", "seconds", *names], lineterminator="\n")
        table.writeheader()
        for trial in study.get_trials(deepcopy=False):
            row = {"trial": trial.number, "state": trial.state.name.lower()} | trial.params
            if trial.intermediate_values:
                complete = trial.state.name == "COMPLETE"
                row[objective] = f"{trial.value if complete else best(trial.intermediate_values.values()):.4f}"
                row["step"] = max(trial.intermediate_values)
            if trial.duration:
                row["seconds"] = f"{trial.duration.total_seconds():.1f}"
            table.writerow(row)


def write_best(study: optuna.Study, job: Job, path: Path) -> None:
    """Writes a script that trains the best configuration and evaluates it, with options of the command line."""
    best = best_of(study)
    if best is None:
        return
    learner, config = configure(best.params, job.learner, dataclasses.replace(job.config, output=None))
    words = [["--source", *map(absolute, job.source)], ["--encoder", absolute(job.encoder)]]
    for part in (job.table, job.episodes, learner, config):
        words += options_of(part)
    text = _SCRIPT.format(
        number=best.number,
        trials=len(finished(study)),
        objective=objective_of(study),
        value=best.value,
        words="\n".join(f"    {', '.join(map(repr, line))}," for line in words),
    )
    write_text(path, text)


_SCRIPT = '''\
"""The best of {trials} trials, number {number}: validation {objective} {value:.3f} on held-out source classes.

    python best.py                                       # trains it again, into trial-{number} beside this file
    python best.py --target my.csv --output table.json   # and judges it, with any option of metatext evaluate
"""

import sys
from pathlib import Path

from metatext.training.checkpoints import has_checkpoint
from metatext.cli.main import main

TRAIN = [
{words}
]

if __name__ == "__main__":
    run = Path(__file__).resolve().with_name("trial-{number}")
    if not (run / "metatext.json").exists():
        main(["train", *TRAIN, "--output", str(run), *(["--resume"] if has_checkpoint(run) else [])])
    if sys.argv[1:]:
        main(["evaluate", str(run), *sys.argv[1:]])
'''


def options_of(settings: Any) -> list[list[str]]:
    """The command-line options that give these settings. Settings at their defaults are left out."""
    found = []
    for field in dataclasses.fields(settings):
        value, flag = getattr(settings, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            found.append([f"--{flag}" if value else f"--no-{flag}"])
        elif isinstance(value, tuple):
            found.append([f"--{flag}", *map(str, value)])
        else:
            found.append([f"--{flag}", str(value)])
    return found


def draw_importances(study: optuna.Study, path: Path) -> None:
    """Draws the importance of each searched name (PED-ANOVA): how well it separates the best trials from the others."""
    from optuna.importance import get_param_importances

    if len({trial.value for trial in finished(study) if trial.state.name == "COMPLETE"}) < 2:
        logger.warning("no %s: it takes two completed trials that differ in %s", path.name, objective_of(study))
        return
    try:
        plt = pyplot()
    except InputError:
        logger.warning("no %s: matplotlib is not installed, pip install 'metatext[plot]'", path.name)
        return
    shares = get_param_importances(study)
    sheet, axes = plt.subplots(figsize=(6, 0.5 + 0.4 * len(shares)), layout="constrained")
    axes.barh(list(shares), list(shares.values()))
    axes.invert_yaxis()
    axes.set_xlabel(f"importance for the validation {objective_of(study)} (PED-ANOVA)")
    save_figure(path, sheet)
