"""Prints a table with a row a target, as docs/results.md and docs/result_tables.md show them, or means over targets.

    python benchmarks/results_overview.py docs/results/weibo_topics.json.gz docs/results/tnews.json.gz --shots 1 5 10
    python benchmarks/results_overview.py docs/results/weibo_topics.json.gz docs/results/tnews.json.gz --means
    python benchmarks/results_overview.py docs/results/weibo_topics.json.gz docs/results/tnews.json.gz --against frozen

The first table sets a learner's default adaptation beside the strongest baseline at each number of labels. The better
of the two is bold where they differ significantly (paired permutation test over the draws, p < .05). `--means` gives
the mean of each baseline over the targets where it was run, beside the default's over the same targets. `--against`
gives the differences of the default from one method, paired by draw. A learner without meta-training counts as a
baseline. Cells without a figure are empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from compact_results import merged
from results_table import percent, read_rows

from metatext.evaluation.intervals import compare_accuracy
from metatext.evaluation.methods import METHODS
from metatext.evaluation.report import is_row_of, shots_heading
from metatext.evaluation.statistics import Comparison
from metatext.hub.markdown import markdown_table
from metatext.learners.state import UNTRAINED

Row = dict[str, Any]


class Target(NamedTuple):
    """A result, ready to be a row."""

    name: str
    classes: str
    default: dict[int, Row]
    """Number of shots -> summary of the learner's default adaptation."""
    baselines: dict[int, list[Row]]
    """Number of shots -> summaries of the baselines."""
    result: Row
    """The figures of every draw; none for a summary over domains."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="results, a target each")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--learner", help="row to show; by default each file's first learner")
    parser.add_argument("--means", action="store_true", help="print means over the targets")
    parser.add_argument("--against", help="print differences from this: a word of `evaluate --methods`, or a row")
    options = parser.parse_args()
    targets = [read_target(file, options.learner) for file in options.files]
    if options.against:
        print(differences(targets, options.shots, METHODS.get(options.against, options.against)))
    else:
        print(means(targets, options.shots) if options.means else overview(targets, options.shots))


def read_target(file: Path, learner: str | None = None) -> Target:
    """Reads a result; `learner` names the row of the default."""
    rows, learners, result = read_rows([file])
    trained = [name for name in learners if name != UNTRAINED]
    mine = learner or next(iter(trained), learners[0])
    if mine not in learners:
        raise SystemExit(f"{file} has no learner {mine!r}; it has {', '.join(learners)}")
    baselines: dict[int, list[Row]] = {}
    for row in rows:
        if not is_row_of(row["method"], [*trained, mine]):
            baselines.setdefault(row["shots"], []).append(row)
    default = {row["shots"]: row for row in rows if row["method"] == mine}
    return Target(file.name.partition(".")[0], _classes(file, default), default, baselines, result)


def _classes(file: Path, default: dict[int, Row]) -> str:
    """Number of classes; of an episode and in all, where an episode has some of them only."""
    if confusion := next(iter(default.values())).get("confusion"):
        return str(len(confusion))
    result = merged([file])
    count, ways = len(result["classes"]), result["runs"][0]["settings"].get("ways")
    return f"{ways} of {count}" if ways else str(count)


def overview(targets: Sequence[Target], shots: Sequence[int]) -> str:
    """A row a target: the default and the strongest baseline, accuracy ± half the 95% interval, in per cent."""
    heading = ["target", "classes"]
    for count in shots:
        heading += [f"{shots_heading(count)}: {row}" for row in ("default", "strongest baseline")]
    return markdown_table(
        heading,
        [[f"`{t.name}`", t.classes, *(cell for count in shots for cell in _pair(t, count))] for t in targets],
    )


def _pair(target: Target, shots: int) -> tuple[str, str]:
    """The default's cell and the strongest baseline's; the better is bold if they differ significantly."""
    mine, baselines = target.default.get(shots), target.baselines.get(shots)
    strongest = max(baselines, key=lambda row: row["accuracy"]) if baselines else None
    cells = [percent(row) if row else "" for row in (mine, strongest)]
    if mine and strongest and (better := _significantly_better(target.result, mine, strongest)) is not None:
        cells[better] = f"**{cells[better]}**"
    return cells[0], f"{cells[1]} {_short(strongest['method'])}" if strongest else ""


def _significantly_better(result: Row, mine: Row, other: Row) -> int | None:
    """0 if `mine` is, 1 if `other` is, None if neither or unknown."""
    found = _paired(result, mine["method"], other["method"], mine["shots"])
    return int(found.difference < 0) if found and found.p_value < 0.05 else None


def _paired(result: Row, mine: str, other: str, shots: int) -> Comparison | None:
    """The difference of two methods on the draws that both were run on; None if there are none."""
    own, theirs = (
        {r["draw"]: r for r in result["records"] if (r["method"], r["shots"]) == (method, shots)}
        for method in (mine, other)
    )
    both = sorted(own.keys() & theirs.keys())
    if not both:
        return None
    test_texts = result.get("test_texts", ())
    return compare_accuracy([own[draw] for draw in both], [theirs[draw] for draw in both], test_texts)


def differences(targets: Sequence[Target], shots: Sequence[int], other: str) -> str:
    """A row a target: the default's accuracy less the other method's ± half the 95% interval, in points."""
    lines = []
    for target in targets:
        mine = next(iter(target.default.values()))["method"]
        found = [_paired(target.result, mine, other, count) for count in shots]
        cells = [f"{100 * pair.difference:+.1f} ± {100 * pair.ci95:.1f}" if pair else "" for pair in found]
        lines.append([f"`{target.name}`", *cells])
    return markdown_table([f"default - {other}", *map(shots_heading, shots)], lines)


def means(targets: Sequence[Target], shots: Sequence[int]) -> str:
    """A row a baseline: its mean / the default's over the same targets, in per cent (number of targets)."""
    names = dict.fromkeys(row["method"] for t in targets for rows in t.baselines.values() for row in rows)
    order = list(METHODS.values())
    lines = []
    for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        cells = []
        for count in shots:
            pairs = [
                (row["accuracy"], t.default[count]["accuracy"])
                for t in targets
                for row in t.baselines.get(count, [])
                if row["method"] == name and count in t.default
            ]
            both = 100 * np.mean(pairs, axis=0) if pairs else None
            cells.append(f"{both[0]:.1f} / {both[1]:.1f} ({len(pairs)})" if both is not None else "")
        lines.append([name, *cells])
    return markdown_table(["baseline / default", *map(shots_heading, shots)], lines)


def _short(method: str) -> str:
    """The key of `--methods` for a baseline, which fits a cell."""
    return next((key for key, name in METHODS.items() if name == method), method)


if __name__ == "__main__":
    main()
