"""Accuracy against inner steps, before and after meta-training: what each learner's inner loop does by itself.

    python benchmarks/inner_steps.py runs/first runs/full --source train.jsonl --target new.jsonl --ways 5

judges every learner, and their encoder with the first one's settings, on the same draws of the target, after 0, 1, 3, 5
and 10 inner steps; the untrained one's scale is calibrated on episodes of --source. No start is chosen, no name read,
nothing fine-tuned; passes are in bfloat16. Writes OUTPUT.json, and OUTPUT.svg with 95% bands.
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
from metatext.training.scale_calibration import calibrate_scale

BEFORE = "before meta-training"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of learners with inner steps, of one encoder")
    parser.add_argument("--source", nargs="+", required=True, help="labelled source files")
    parser.add_argument("--target", required=True, help="labelled target file")
    parser.add_argument("--ways", type=int)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 3, 5, 10])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--test-size", type=int, default=75)
    parser.add_argument("--output", type=Path, default=Path("runs/inner_steps"))
    return parser.parse_args()


def main() -> None:
    """Judges the learners; prints the table."""
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
    rows = judge({BEFORE: before} | named, draws, options.steps)
    training = {run: json.loads((Path(run) / "training.json").read_text(encoding="utf-8")) for run in learners}
    steps = {Path(run).name: {"meta_steps": t["step"], "seconds": t["seconds"]} for run, t in training.items()}
    result = {"target": target.name, "draws": options.draws, "meta_training": steps, "rows": rows}
    write_json(options.output.with_suffix(".json"), result)
    draw(options.output.with_suffix(".svg"), rows)
    print(table(rows))


def judge(learners: Mapping[str, Learner], draws: Sequence[Draw], steps: Sequence[int]) -> list[dict[str, Any]]:
    """A row a learner, number of shots and number of steps: mean accuracy over the draws, and every draw's."""
    bar = tqdm(total=len(learners) * len(draws) * len(steps), unit="fit")
    found: dict[tuple[str, int, int], list[float]] = {}
    for name, learner in learners.items():
        learner.autocast_dtype = torch.bfloat16
        for one in draws:
            for count in steps:
                found.setdefault((name, one.shots, count), []).append(accuracy(learner, one, count))
                bar.update()
    keys = ("learner", "shots", "steps")
    return [
        dict(zip(keys, key, strict=True))
        | dict(zip(("accuracy", "ci95"), confidence_interval(values), strict=True))
        | {"accuracies": values}
        for key, values in found.items()
    ]


def accuracy(learner: Learner, one: Draw, steps: int) -> float:
    """Of the inner loop's classifier on the test texts of a draw."""
    (texts, labels), (queries, truth) = (zip(*pairs, strict=True) for pairs in (one.support, one.test))
    answer = Adaptation(learner)(steps=steps, alone=True)(texts, labels, queries)
    return float(accuracy_score(truth, answer.labels))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a learner and number of shots, a column a number of steps."""
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["learner"], row["shots"]) for row in rows):
        own = [row for row in rows if (row["learner"], row["shots"]) == key]
        lines.append([*map(str, key), *(f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}" for row in own)])
    return markdown_table(["learner", "shots", *(f"{count} steps" for count in steps)], lines)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A panel a number of shots, a line a learner."""
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
