"""Reports an evaluation: summary table, significance tests between methods, and scores per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import classification_report

from metatext.evaluation.intervals import TestTexts, compare_accuracy, score_interval
from metatext.evaluation.records import Record
from metatext.hub.markdown import markdown_table

UNLABELLED = ", unlabelled texts too"
"""Suffix of the row of a learner that is given unlabelled texts."""


def summarise(records: Sequence[Record], test_texts: TestTexts = ()) -> list[dict[str, Any]]:
    """Summarises the draws of each method and number of shots.

    Args:
        records: results of methods on draws.
        test_texts: the test texts of each draw, for the intervals.

    Returns:
        One row per method and number of shots: mean and 95% half-width (see `intervals`) of accuracy and macro-F1; mean
        calibration error, None if the method gives no probabilities; median seconds per fit; and the confusion counts,
        {label: {predicted label: texts}}, summed over the draws.
    """
    rows = []
    for method, shots in dict.fromkeys((r["method"], r["shots"]) for r in records):
        selected = _of(records, method, shots)
        row: dict[str, Any] = {"method": method, "shots": shots, "draws": len(selected)}
        row["accuracy"], row["accuracy_ci95"] = score_interval(selected, "accuracy", test_texts)
        row["macro_f1"], row["macro_f1_ci95"] = score_interval(selected, "macro_f1", test_texts)
        errors = [r["calibration_error"] for r in selected if r["calibration_error"] is not None]
        row["calibration_error"] = float(np.mean(errors)) if errors else None
        row["fit_seconds"] = float(np.median([r["fit_seconds"] for r in selected]))
        row["confusion"] = _summed(r["confusion"] for r in selected)
        rows.append(row)
    return rows


def _of(records: Sequence[Record], method: str, shots: int) -> list[Record]:
    return [r for r in records if (r["method"], r["shots"]) == (method, shots)]


def _summed(confusions: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for confusion in confusions:
        for label, predictions in confusion.items():
            row = total.setdefault(label, {})
            for predicted, count in predictions.items():
                row[predicted] = row.get(predicted, 0) + count
    return total


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats a summary as a Markdown table with a row per method and a column per number of shots, in per cent.

    A cell is empty where the method has no result, such as a method that needs labels at 0 shots.
    """
    shots = sorted({row["shots"] for row in rows})
    cells = {(row["method"], row["shots"]): row for row in rows}
    head = ["method", *(f"{shots_heading(k)}: accuracy / macro-F1" for k in shots), "s per fit"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        values = [cells.get((method, k)) for k in shots]
        scores = [
            f"{100 * v['accuracy']:.1f} ± {100 * v['accuracy_ci95']:.1f} / "
            f"{100 * v['macro_f1']:.1f} ± {100 * v['macro_f1_ci95']:.1f}"
            if v
            else ""
            for v in values
        ]
        times = [v["fit_seconds"] for v in values if v]
        seconds = "-".join(dict.fromkeys(f"{value:.2g}" for value in (times[0], times[-1])))
        lines.append([method, *scores, seconds])
    return markdown_table(head, lines)


def compare(records: Sequence[Record], learners: Sequence[str], test_texts: TestTexts = ()) -> list[dict[str, Any]]:
    """Compares the accuracy of every learner with that of every other row, paired by draw, for every number of shots.

    The p-values are not corrected for multiple comparisons. P-values and intervals generalise to other draws of the
    support (and of the classes, with `ways`) and to other test texts; see `intervals`. They assume independent draws.
    In a small target the draws are less independent, because the support of one draw is among the test texts of others.

    Returns:
        One entry per learner, other row and number of shots: their names, the number of draws and the fields of
        `statistics.Comparison`.
    """
    comparisons = []
    for shots in sorted({record["shots"] for record in records}):
        by_draw = {
            name: {r["draw"]: r for r in _of(records, name, shots)}
            for name in dict.fromkeys(record["method"] for record in records if record["shots"] == shots)
        }
        for name in (name for name in learners if name in by_draw):
            for other in (other for other in by_draw if other != name):
                mine, theirs = list(by_draw[name].values()), [by_draw[other][draw] for draw in by_draw[name]]
                comparison = compare_accuracy(mine, theirs, test_texts)
                entry = {"method": name, "other": other, "shots": shots, "draws": len(mine)}
                comparisons.append(entry | comparison._asdict())
    return comparisons


def differences(
    rows: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]], learners: Sequence[str], fine_tuning: str
) -> list[str]:
    """Says how each learner compares with fine-tuning, the strongest baseline, and itself with unlabelled texts.

    Args:
        rows: the rows that `summarise` returns.
        comparisons: the entries that `compare` returns.
        learners: names of the learners' rows. These and their variants (see `is_row_of`) are not baselines.
        fine_tuning: name of the row of fine-tuning.

    Returns:
        One sentence per comparison. Differences are in percentage points and significant at p < .05.
    """
    sentences = []
    for shots in sorted({row["shots"] for row in rows}):
        baselines = [row for row in rows if row["shots"] == shots and not is_row_of(row["method"], learners)]
        strongest = max(baselines, key=lambda row: row["accuracy"])["method"] if baselines else None
        for entry in comparisons:
            is_unlabelled = is_row_of(entry["other"], learners) and entry["other"].endswith(UNLABELLED)
            if entry["shots"] == shots and (is_unlabelled or entry["other"] in (fine_tuning, strongest)):
                best = " (the strongest baseline)" if entry["other"] == strongest else ""
                verdict = "beats" if entry["difference"] > 0 else "is behind"
                if entry["p_value"] >= 0.05:
                    verdict = "does not differ significantly from"
                p = f", p = {entry['p_value']:.3f}" if entry["p_value"] >= 0.001 else ", p < 0.001"
                if 2 / 2 ** entry["draws"] >= 0.05:  # too few draws for a permutation test, and for an interval
                    verdict = f"cannot be tested with {entry['draws']} draws (6 are needed, --draws) against"
                    p = ""
                points = f"{100 * entry['difference']:+.1f} ± {100 * entry['ci95']:.1f} points"
                sentences.append(
                    f"{shots_heading(shots)}: {entry['method']} {verdict} {entry['other']}{best}, {points}{p}"
                )
    return sentences


def is_row_of(method: str, learners: Sequence[str]) -> bool:
    """Whether a row is that of a learner or of a variant of it, whose name has a comma after the learner's name.

    Example:
        >>> is_row_of("first-order MAML, without class names", ["first-order MAML"])
        True
        >>> is_row_of("SetFit", ["first-order MAML"])
        False
    """
    return any(method == name or method.startswith(f"{name}, ") for name in learners)


def class_tables(rows: Sequence[dict[str, Any]], learners: Sequence[str]) -> str:
    """Formats precision, recall and F1 per class in Markdown, for each learner at its most shots, over all draws."""
    most = {row["method"]: row["shots"] for row in sorted(rows, key=lambda row: row["shots"])}
    parts = []
    for row in rows:
        if row["shots"] == most[row["method"]] and row["method"] in learners:
            heading = ["class", "precision", "recall", "F1", "texts judged"]
            lines = [
                [name, *(f"{100 * scores[key]:.1f}" for key in ("precision", "recall", "f1-score")), scores["support"]]
                for name, scores in class_scores(row["confusion"]).items()
            ]
            title = f"{row['method']}, {shots_heading(row['shots'])}, all {row['draws']} draws together, in %:"
            parts.append(f"{title}\n\n{markdown_table(heading, lines)}")
    return "\n\n".join(parts)


def class_scores(confusion: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """Computes scikit-learn's precision, recall, f1-score and support of each class from confusion counts.

    Example:
        >>> class_scores({"a": {"a": 3, "b": 1}, "b": {"b": 2}})["a"]
        {'precision': 1.0, 'recall': 0.75, 'f1-score': 0.8571428571428571, 'support': 4}
    """
    cells = [(label, predicted, n) for label, counts in confusion.items() for predicted, n in counts.items()]
    truth, predictions, texts = zip(*cells, strict=True)
    names = sorted({*truth, *predictions})
    scores: dict[str, Any] = classification_report(
        truth, predictions, labels=names, sample_weight=texts, output_dict=True, zero_division=0
    )
    return {name: scores[name] | {"support": int(scores[name]["support"])} for name in names}


def shots_heading(number: int) -> str:
    """Formats a number of shots as a heading: 0 shots, 1 shot, 5 shots."""
    return f"{number} shot{'s' * (number != 1)}"
