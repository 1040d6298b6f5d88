"""One table of several evaluations on the same draws, as docs/results.md shows them.

    python benchmarks/tables.py docs/results/default_weibo_topics*.json --shots 1 5 10

Rows are those of all files, the first file's where two have the same; parts of a learner's adaptation are left out, but
for its row with unlabelled texts. Of the files after `--baselines` the learners' rows are left out, too. Beneath stands
how each learner differs from every other row, paired by draw. With `--plot FIGURE.svg` the rows are drawn as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.evaluation.plot import plot_accuracy
from metatext.evaluation.report import UNLABELLED, is_row_of, shots_heading
from metatext.evaluation.statistics import paired_comparison
from metatext.hub.markdown import markdown_table

_SAME = ("target_rows", "classes", "encoder", "official_supports")
_SAME_SETTINGS = ("draws", "draw_seed", "test_size", "ways")


def main() -> None:
    """Prints the table and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="results of metatext evaluate, or of recipes")
    parser.add_argument("--baselines", nargs="+", type=Path, default=[], help="results whose learners are left out")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--plot", type=Path, help="SVG file to draw accuracy against shots in as well")
    options = parser.parse_args()
    rows, records, learners = merged(options.files, options.baselines)
    print(table(rows, options.shots, learners))
    print(*differences(records, options.shots, learners), sep="\n")
    if options.plot:
        plot_accuracy(options.plot, [row for row in rows if row["shots"] in options.shots])


def merged(
    files: Sequence[Path], baselines: Sequence[Path]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Rows and records of all files, of `baselines` without the learners', and the learners' names.

    Raises:
        InputError: the files are not of the same draws, or have learners of one name with other weights.
    """
    results = {file: json.loads(file.read_text(encoding="utf-8")) for file in [*files, *baselines]}
    for result in [results[file] for file in baselines]:
        own = list(result["learners"])
        result["learners"] = {}
        for part in ("rows", "records"):
            result[part] = [row for row in result[part] if not is_row_of(row["method"], own)]
    _check_same(results)
    learners = list(dict.fromkeys(name for result in results.values() for name in result["learners"]))
    weights: dict[str, str | None] = {}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    records: dict[tuple[str, int, int], dict[str, Any]] = {}
    for result in results.values():
        for row in result["rows"]:
            if (
                row["method"] in learners
                or not is_row_of(row["method"], learners)
                or row["method"].endswith(UNLABELLED)
            ):
                rows.setdefault((row["method"], row["shots"]), row)
        for record in result["records"]:
            if weights.setdefault(record["method"], record["weights"]) != record["weights"]:
                raise InputError(f"the files have several learners called {record['method']!r}")
            records.setdefault((record["method"], record["shots"], record["draw"]), record)
    ordered = sorted(rows.values(), key=lambda row: is_row_of(row["method"], learners))
    return ordered, list(records.values()), learners


def _check_same(results: dict[Path, dict[str, Any]]) -> None:
    """Refuses results of other draws than the first's."""
    first, *others = results
    for file in others:
        mine, its = results[first], results[file]
        if _target(mine) != _target(its):
            raise InputError(f"{file} is of target {_target(its)}, {first} of {_target(mine)}")
        pairs = [(mine.get(name), its.get(name), name) for name in _SAME]
        pairs += [(mine["settings"].get(name), its["settings"].get(name), name) for name in _SAME_SETTINGS]
        if other := next((name for one, another, name in pairs if (one or 0) != (another or 0)), None):
            raise InputError(f"{file} has another {other} than {first}: the draws are not the same")
    for file, result in results.items():
        for shots, digest in result.get("draws_sha256", {}).items():
            if any(other.get("draws_sha256", {}).get(shots, digest) != digest for other in results.values()):
                raise InputError(f"{file} was judged on other texts at {shots} shots than another of the files")


def _target(result: dict[str, Any]) -> str:
    return result["target"].removesuffix(".train")  # which a recipe that reads NAME.train and NAME.test leaves out


def table(rows: Sequence[dict[str, Any]], shots: Sequence[int], learners: Sequence[str]) -> str:
    """Accuracy and its 95% interval / macro-F1, in per cent; empty where a method was not run."""
    cells = {(row["method"], row["shots"]): row for row in rows}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [cells.get((method, count)) for count in shots]
        values = [
            f"{100 * c['accuracy']:.1f} ± {100 * c['accuracy_ci95']:.1f} / {100 * c['macro_f1']:.1f}" if c else ""
            for c in own
        ]
        seconds = [c["fit_seconds"] for c in own if c]
        if seconds:
            ends = "-".join(dict.fromkeys(f"{value:.2g}" for value in (seconds[0], seconds[-1])))
            lines.append([f"**{method}, the default**" if method in learners else method, *values, ends])
    return markdown_table(["method", *map(shots_heading, shots), "s per fit"], lines)


def differences(records: Sequence[dict[str, Any]], shots: Sequence[int], learners: Sequence[str]) -> list[str]:
    """A line for each learner and other row: points of accuracy at each number of shots."""
    accuracy: dict[tuple[str, int], dict[int, float]] = {}
    for record in records:
        accuracy.setdefault((record["method"], record["shots"]), {})[record["draw"]] = record["accuracy"]
    lines = []
    for learner in learners:
        for other in dict.fromkeys(method for method, _ in accuracy if not is_row_of(method, learners)):
            cells = []
            for count in shots:
                mine, theirs = accuracy.get((learner, count), {}), accuracy.get((other, count), {})
                if both := sorted(mine.keys() & theirs.keys()):
                    found = paired_comparison([mine[draw] for draw in both], [theirs[draw] for draw in both])
                    cells.append(f"{100 * found.difference:+.1f} ± {100 * found.ci95:.1f} ({count})")
            if cells:
                lines.append(f"{learner} - {other}: {', '.join(cells)}")
    return lines


if __name__ == "__main__":
    main()
