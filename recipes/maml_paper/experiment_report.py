"""Methods, evaluation loop and report of the two experiments of the MAML paper."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metatext import __version__
from metatext.errors import InputError
from metatext.evaluation.plot import pyplot, save_figure
from metatext.evaluation.statistics import confidence_interval
from metatext.files import write_json
from metatext.hub.markdown import markdown_table

JOINT = "joint pre-training"
METHODS = {"full MAML": (1, 1), "first-order MAML": (1, 0), JOINT: (0, 0)}
"""Inner steps in training, and the number of them that are second-order. Without inner steps, it is joint training."""


def compare(
    train: Callable[[str, int], nn.Module],
    test: Callable[[nn.Module, float, int], dict[str, Tensor]],
    seeds: Sequence[int],
    inner_lr: float,
    pretrained_lrs: Sequence[float],
) -> list[dict[str, Any]]:
    """Trains and tests every method with every seed.

    Args:
        train: takes a method (a key of METHODS) and a seed; returns the trained net.
        test: takes a net, a learning rate and a seed; fine-tunes the net on the test tasks of the seed. Returns, for
            each problem, the score of every test task after 0, 1, ... gradient steps, (steps + 1, tasks).
        seeds: at least two.
        inner_lr: the learning rate of MAML in the tests.
        pretrained_lrs: the learning rates of joint pre-training in the tests.

    Returns:
        A record for each seed, method, learning rate and problem: means and 95% confidence intervals over the tasks.

    Raises:
        InputError: there are fewer than two seeds, so that no confidence interval can be computed.
    """
    if len(seeds) < 2:
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: give at least two, for the confidence intervals")
    records = []
    for seed in seeds:
        for method in METHODS:
            start = time.perf_counter()
            net = train(method, seed)
            seconds = time.perf_counter() - start
            for rate in pretrained_lrs if method == JOINT else (inner_lr,):
                for problem, values in test(net, rate, seed).items():
                    mean, ci95 = zip(*map(confidence_interval, values.tolist()), strict=True)
                    after = f"{mean[0]:.2f}, after {len(mean) - 1} gradient steps {mean[-1]:.2f}"
                    print(f"seed {seed}, {method}, steps of {rate:g}, {problem}: {after}", file=sys.stderr)
                    record = {"problem": problem, "method": f"{method}, steps of {rate:g}", "seed": seed, "mean": mean}
                    records.append(record | {"ci95_over_tasks": ci95, "train_seconds": round(seconds, 1)})
    return records


def write_report(path: Path, settings: Any, records: Sequence[dict[str, Any]], score: str, digits: int) -> None:
    """Writes the results to a .json file and a plot to a .svg file, and prints the table.

    Args:
        path: path of both files, without suffix.
        settings: the dataclass of settings that gave the records.
        records: the records of `compare`.
        score: name of the score in the records, for the axis of the plot.
        digits: decimal places in the table.
    """
    rows = []
    for problem, method in dict.fromkeys((r["problem"], r["method"]) for r in records):
        seeds = [r["mean"] for r in records if (r["problem"], r["method"]) == (problem, method)]
        mean, ci95 = zip(*map(confidence_interval, zip(*seeds, strict=True)), strict=True)
        rows.append({"problem": problem, "method": method, "seeds": len(seeds), "mean": mean, "ci95": ci95})
    versions = {"python": platform.python_version(), "torch": torch.__version__, "metatext": __version__}
    result = {"settings": dataclasses.asdict(settings), "versions": versions, "rows": rows, "records": records}
    finite = json.loads(json.dumps(result), parse_constant=lambda _: None)  # diverged runs have NaN, JSON has not
    write_json(path.with_suffix(".json"), finite)
    _draw(path.with_suffix(".svg"), rows, records, score)
    print(table(rows, digits))


def table(rows: Sequence[dict[str, Any]], digits: int) -> str:
    """Returns a Markdown table of means over the seeds ± half the width of the 95% confidence interval.

    Its columns are the numbers of gradient steps: 0, 1, 2, 3, 5 and 10, as far as there are so many.
    """
    steps = [k for k in range(len(rows[0]["mean"])) if k in (0, 1, 2, 3, 5, 10)]
    lines = []
    for row in rows:
        pairs = [(row["mean"][k], row["ci95"][k]) for k in steps]
        cells = [f"{m:.{digits}f} ± {half:.{digits}f}" if math.isfinite(m) else "diverged" for m, half in pairs]
        lines.append([row["problem"], row["method"], *cells])
    return markdown_table(["", "method", *("1 step" if k == 1 else f"{k} steps" for k in steps)], lines)


def _draw(path: Path, rows: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]], score: str) -> None:
    """Draws one panel per problem: the score against the gradient steps, means as thick lines, seeds as thin ones.

    Diverged runs must not set the scale. The axis therefore ends at 0, the best score, and at twice the median score
    before any gradient step.
    """
    plt, problems = pyplot(), list(dict.fromkeys(row["problem"] for row in rows))
    sheet, panels = plt.subplots(1, len(problems), figsize=(5 * len(problems), 4), layout="constrained", squeeze=False)
    for axes, problem in zip(panels[0], problems, strict=True):
        shown = [row for row in rows if row["problem"] == problem]
        start = statistics.median(row["mean"][0] for row in shown)
        for row in shown:
            (line,) = axes.plot(row["mean"], marker="o", markersize=3, label=row["method"])
            for seed in (r["mean"] for r in records if (r["problem"], r["method"]) == (problem, row["method"])):
                axes.plot(seed, color=line.get_color(), linewidth=0.6, alpha=0.6)
        axes.set(title=problem, xlabel="gradient steps", ylabel=score, ylim=sorted((0.0, 2 * start)))
        axes.legend(fontsize="small")
    save_figure(path, sheet)
