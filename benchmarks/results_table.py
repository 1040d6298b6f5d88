"""Prints the table of a result as docs/results.md and docs/result_tables.md show it.

    python benchmarks/results_table.py docs/results/weibo_topics.json.gz --shots 1 5 10

Takes results of `metatext evaluate`, compact or not; several on the same draws become one table. Takes also the
summary of recipes/reviews_leave_one_out.py, alone. Ablations of a learner's adaptation are left out; its row with
unlabelled texts is kept. The lines beneath give the paired difference of each learner to every baseline. `--accuracy`
prints accuracy alone: no macro-F1, seconds or differences. `--plot FIGURE.svg` draws the rows as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compact_results import merged

from metatext.evaluation.intervals import compare_accuracy, score_interval
from metatext.evaluation.methods import METHODS
from metatext.evaluation.plot import plot_accuracy
from metatext.evaluation.report import UNLABELLED, is_row_of, shots_heading
from metatext.hub.markdown import markdown_table


def main() -> None:
    """Prints the table and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="results of metatext evaluate, or of recipes")
    parser.add_argument("--baselines", nargs="+", type=Path, default=[], help="results whose learners are left out")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--accuracy", action="store_true", help="print accuracy and its interval only")
    parser.add_argument("--plot", type=Path, help="SVG file to draw accuracy against shots in as well")
    options = parser.parse_args()
    rows, learners, result = read_rows(options.files, options.baselines)
    if options.accuracy:
        print(accuracy_table(rows, options.shots, learners))
    else:
        print(table(rows, options.shots, learners))
        print(*differences(result, options.shots, learners), sep="\n")
    if options.plot:
        plot_accuracy(options.plot, [row for row in rows if row["shots"] in options.shots])


def read_rows(
    files: Sequence[Path], baselines: Sequence[Path] = ()
) -> tuple[list[dict[str, Any]], list[str], dict[str, Any]]:
    """The rows of `summarised`, the names of the learners, and the merged result.

    A summary over domains, such as that of recipes/reviews_leave_one_out.py, has rows only.
    """
    if [file.suffix for file in files] == [".json"]:
        summary = json.loads(files[0].read_text(encoding="utf-8"))
        if "domains" in summary:
            methods = dict.fromkeys(row["method"] for row in summary["rows"])
            return summary["rows"], [method for method in methods if method not in METHODS.values()], {"records": []}
    result = merged(files, baselines)
    return summarised(result), list(result["learners"]), result


def summarised(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a method and number of shots, baselines first: means over the draws, in shares of 1."""
    learners = list(result["learners"])
    records: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in result["records"]:
        method = record["method"]
        if method in learners or not is_row_of(method, learners) or method.endswith(UNLABELLED):
            records.setdefault((method, record["shots"]), []).append(record)
    rows = []
    for (method, shots), draws in sorted(records.items(), key=lambda item: is_row_of(item[0][0], learners)):
        accuracy, half_width = score_interval(draws, "accuracy", result.get("test_texts", ()))
        rows.append(
            {
                "method": method,
                "shots": shots,
                "accuracy": accuracy,
                "accuracy_ci95": half_width,
                "macro_f1": float(np.mean([draw["macro_f1"] for draw in draws])),
                "fit_seconds": float(np.median([draw["fit_seconds"] for draw in draws])),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]], shots: Sequence[int], learners: Sequence[str]) -> str:
    """Accuracy and its 95% interval / macro-F1, in per cent; empty where a method was not run."""
    lines = []
    for method, own in _cells(rows, shots).items():
        values = [f"{percent(c)} / {100 * c['macro_f1']:.1f}" if c else "" for c in own]
        seconds = [c["fit_seconds"] for c in own if c]
        ends = "-".join(dict.fromkeys(f"{value:.2g}" for value in (seconds[0], seconds[-1])))
        lines.append([_title(method, learners), *values, ends])
    return markdown_table(["method", *map(shots_heading, shots), "s per fit"], lines)


def accuracy_table(rows: Sequence[dict[str, Any]], shots: Sequence[int], learners: Sequence[str]) -> str:
    """Accuracy and its 95% interval, in per cent; empty where a method was not run."""
    lines = [
        [_title(method, learners), *(percent(cell) if cell else "" for cell in own)]
        for method, own in _cells(rows, shots).items()
    ]
    return markdown_table(["method", *map(shots_heading, shots)], lines)


def percent(row: dict[str, Any]) -> str:
    """Accuracy ± half the width of its 95% interval, in per cent."""
    return f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_ci95']:.1f}"


def _cells(rows: Sequence[dict[str, Any]], shots: Sequence[int]) -> dict[str, list[dict[str, Any] | None]]:
    """Method -> its row at each number of shots, None where it was not run; without methods that were run at none."""
    cells = {(row["method"], row["shots"]): row for row in rows}
    methods = dict.fromkeys(row["method"] for row in rows if row["shots"] in shots)
    return {method: [cells.get((method, count)) for count in shots] for method in methods}


def _title(method: str, learners: Sequence[str]) -> str:
    return f"**{method}, the default**" if method in learners else method


def differences(result: dict[str, Any], shots: Sequence[int], learners: Sequence[str]) -> list[str]:
    """A line for each learner and baseline: points of accuracy at each number of shots, paired by draw."""
    by_draw: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for record in result["records"]:
        by_draw.setdefault((record["method"], record["shots"]), {})[record["draw"]] = record
    lines = []
    for learner in learners:
        for other in dict.fromkeys(method for method, _ in by_draw if not is_row_of(method, learners)):
            cells = []
            for count in shots:
                mine, theirs = by_draw.get((learner, count), {}), by_draw.get((other, count), {})
                if both := sorted(mine.keys() & theirs.keys()):
                    found = compare_accuracy(
                        [mine[draw] for draw in both], [theirs[draw] for draw in both], result.get("test_texts", ())
                    )
                    cells.append(f"{100 * found.difference:+.1f} ± {100 * found.ci95:.1f} ({count})")
            if cells:
                lines.append(f"{learner} - {other}: {', '.join(cells)}")
    return lines


if __name__ == "__main__":
    main()
