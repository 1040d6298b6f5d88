"""Measures accuracy against the number of inner steps, before and after meta-training.

    python benchmarks/inner_steps.py runs/first runs/full --source train.jsonl --target new.jsonl --ways 5

All learners are evaluated on the same draws of the target, after 0, 1, 3, 5 and 10 inner steps. The row "before
meta-training" is their encoder with the settings of the first learner; its scale is calibrated on episodes of --source.
Adaptation is the inner loop alone, without start selection, class names and fine-tuning. The passes are in bfloat16.
The command writes OUTPUT.json and OUTPUT.svg, a plot with 95% confidence bands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import accuracy_score
from tqdm.auto import tqdm

from metatext import Domain, EpisodeSampler, Learner
from metatext.errors import InputError
from metatext.evaluation.methods import Adaptation
from metatext.evaluation.plot import draw_band, pyplot, save_figure
from metatext.evaluation.statistics import confidence_interval
from metatext.evaluation.support_draws import Draw, make_draws
from metatext.files import write_json
from metatext.hub.markdown import markdown_table
from metatext.training.initial_head_scale import calibrate_scale

BEFORE = "before meta-training"


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of learners with inner steps and the same encoder")
    parser.add_argument(
        "--source", nargs="+", required=True, help="labelled source files, to calibrate the untrained learner"
    )
    parser.add_argument("--target", required=True, help="labelled target file")
    parser.add_argument("--ways", type=int, help="classes per draw (default: all of the target)")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5], help="labels per class (default 1 5)")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[0, 1, 3, 5, 10], help="numbers of inner steps (default 0 1 3 5 10)"
    )
    parser.add_argument("--draws", type=int, default=50, help="draws per number of shots (default 50)")
    parser.add_argument("--test-size", type=int, default=75, help="maximal number of test texts of a draw (default 75)")
    parser.add_argument("--output", type=Path, default=Path("runs/inner_steps"), help="output files, without suffix")
    return parser.parse_args()


def main() -> None:
    """Evaluates the learners, writes the results and prints the table."""
    options = parse()
    target = Domain.from_file(options.target)
    draws = make_draws(target, options.shots, options.draws, ways=options.ways, test_size=options.test_size)
    learners = {run: Learner.from_pretrained(run) for run in options.runs}
    first = next(iter(learners.values()))
    if other := next((run for run, learner in learners.items() if learner.base_model != first.base_model), None):
        raise InputError(f"{other} has another encoder than {options.runs[0]}: judge them apart")
    before = Learner.from_pretrained(first.base_model, **dataclasses.asdict(first.settings))
    sources = [Domain.from_file(path) for path in options.source]
    calibrate_scale(before, EpisodeSampler(sources, options.ways, max(options.shots)))
    named = {Path(run).name: learner for run, learner in learners.items()}
    rows = evaluate({BEFORE: before} | named, draws, options.steps)
    training = {run: json.loads((Path(run) / "training.json").read_text(encoding="utf-8")) for run in learners}
    steps = {Path(run).name: {"meta_steps": t["step"], "seconds": t["seconds"]} for run, t in training.items()}
    result = {"target": target.name, "draws": options.draws, "meta_training": steps, "rows": rows}
    write_json(options.output.with_suffix(".json"), result)
    plot(options.output.with_suffix(".svg"), rows)
    print(table(rows))


def evaluate(learners: Mapping[str, Learner], draws: Sequence[Draw], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Returns a row per learner, number of shots and number of steps, with the accuracy of each draw and the mean."""
    progress = tqdm(total=len(learners) * len(draws) * len(steps), unit="fit")
    accuracies: dict[tuple[str, int, int], list[float]] = {}
    for name, learner in learners.items():
        learner.autocast_dtype = torch.bfloat16
        for draw in draws:
            for count in steps:
                accuracies.setdefault((name, draw.shots, count), []).append(accuracy(learner, draw, count))
                progress.update()
    keys = ("learner", "shots", "steps")
    return [
        dict(zip(keys, key, strict=True))
        | dict(zip(("accuracy", "ci95"), confidence_interval(values), strict=True))
        | {"accuracies": values}
        for key, values in accuracies.items()
    ]


def accuracy(learner: Learner, draw: Draw, steps: int) -> float:
    """Returns the accuracy on the test texts of a draw after `steps` inner steps on its support."""
    answer = Adaptation(learner)(steps=steps, alone=True).on(draw)
    return float(accuracy_score([label for _, label in draw.test], answer.labels))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table with a row per learner and number of shots, and a column per number of steps."""
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["learner"], row["shots"]) for row in rows):
        own = [row for row in rows if (row["learner"], row["shots"]) == key]
        lines.append([*map(str, key), *(f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}" for row in own)])
    return markdown_table(["learner", "shots", *(f"{count} steps" for count in steps)], lines)


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws accuracy against inner steps: one panel per number of shots, one line per learner."""
    plt, shots = pyplot(), list(dict.fromkeys(row["shots"] for row in rows))
    sheet, panels = plt.subplots(1, len(shots), figsize=(5 * len(shots), 4), layout="constrained", squeeze=False)
    for axes, count in zip(panels[0], shots, strict=True):
        for name in dict.fromkeys(row["learner"] for row in rows):
            own = [row for row in rows if (row["learner"], row["shots"]) == (name, count)]
            mean, half = ([row[key] for row in own] for key in ("accuracy", "ci95"))
            draw_band(axes, [row["steps"] for row in own], mean, half, name)
        axes.set(title=f"{count} labels a class", xlabel="inner steps", ylabel="accuracy, %")
    panels[0][0].legend(fontsize="small")
    save_figure(path, sheet)


if __name__ == "__main__":
    main()
