"""What the records of an evaluation say: the table, tested differences between methods, and the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import classification_report

from metatext.evaluation.records import Record
from metatext.evaluation.statistics import confidence_interval, paired_comparison
from metatext.hub.markdown import markdown_table

UNLABELLED = ", unlabelled texts too"
"""End of the name of a learner's row with unlabelled texts."""


def summarise(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a method and number of shots.

    Mean and 95% half-width of accuracy and macro-F1; mean calibration error, None where a method gives no
    probabilities; median seconds per fit; and the confusion counts, {label: {answer: texts}}, summed over the draws.
    """
    rows = []
    for method, shots in dict.fromkeys((r["method"], r["shots"]) for r in records):
        chosen = _of(records, method, shots)
        row: dict[str, Any] = {"method": method, "shots": shots, "draws": len(chosen)}
        row["accuracy"], row["accuracy_ci95"] = confidence_interval([r["accuracy"] for r in chosen])
        row["macro_f1"], row["macro_f1_ci95"] = confidence_interval([r["macro_f1"] for r in chosen])
        errors = [r["calibration_error"] for r in chosen if r["calibration_error"] is not None]
        row["calibration_error"] = float(np.mean(errors)) if errors else None
        row["fit_seconds"] = float(np.median([r["fit_seconds"] for r in chosen]))
        row["confusion"] = _summed(r["confusion"] for r in chosen)
        rows.append(row)
    return rows


def _of(records: Sequence[Record], method: str, shots: int) -> list[Record]:
    return [r for r in records if (r["method"], r["shots"]) == (method, shots)]


def _summed(confusions: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for confusion in confusions:
        for label, answers in confusion.items():
            row = total.setdefault(label, {})
            for answer, count in answers.items():
                row[answer] = row.get(answer, 0) + count
    return total


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table: a row a method, a column a number of shots; values in per cent."""
    shots = sorted({row["shots"] for row in rows})
    cells = {(row["method"], row["shots"]): row for row in rows}
    head = ["method", *(f"{shots_heading(k)}: accuracy / macro-F1" for k in shots), "s per fit"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        values = [cells[method, k] for k in shots]
        scores = [
            f"{100 * v['accuracy']:.1f} ± {100 * v['accuracy_ci95']:.1f} / "
            f"{100 * v['macro_f1']:.1f} ± {100 * v['macro_f1_ci95']:.1f}"
            for v in values
        ]
        seconds = "-".join(dict.fromkeys(f"{v['fit_seconds']:.2g}" for v in (values[0], values[-1])))
        lines.append([method, *scores, seconds])
    return markdown_table(head, lines)


def compare(records: Sequence[Record], learners: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of every learner against that of every other row, paired by draw, at every number of shots.

    The p-values are of each comparison by itself, not corrected for their number. They and the intervals tell of other
    draws of the support (and of the classes, with `ways`). In a small target the support of one draw is among the test
    texts of others, so that its draws are less independent than they are taken to be.
    """
    comparisons = []
    for shots in sorted({record["shots"] for record in records}):
        accuracy = {
            name: {r["draw"]: r["accuracy"] for r in _of(records, name, shots)}
            for name in dict.fromkeys(record["method"] for record in records)
        }
        for name in (name for name in learners if name in accuracy):
            for other in (other for other in accuracy if other != name):
                found = paired_comparison(
                    list(accuracy[name].values()), [accuracy[other][draw] for draw in accuracy[name]]
                )
                entry = {"method": name, "other": other, "shots": shots, "draws": len(accuracy[name])}
                comparisons.append(entry | found._asdict())
    return comparisons


def differences(
    rows: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]], learners: Sequence[str], fine_tuning: str
) -> list[str]:
    """Sentences on each learner against fine-tuning, the strongest baseline, and itself with unlabelled texts.

    Args:
        rows: of `summarise`.
        comparisons: of `compare`.
        learners: rows that are no baselines, nor are those of their parts, whose names begin with theirs and a comma.
        fine_tuning: name of its row.
    """
    sentences = []
    for shots in sorted({row["shots"] for row in rows}):
        baselines = [row for row in rows if row["shots"] == shots and not is_row_of(row["method"], learners)]
        strongest = max(baselines, key=lambda row: row["accuracy"])["method"] if baselines else None
        for found in comparisons:
            with_more = is_row_of(found["other"], learners) and found["other"].endswith(UNLABELLED)
            if found["shots"] == shots and (with_more or found["other"] in (fine_tuning, strongest)):
                best = " (the strongest baseline)" if found["other"] == strongest else ""
                told = "beats" if found["difference"] > 0 else "is behind"
                if found["p_value"] >= 0.05:
                    told = "is not told apart from"
                if 2 / 2 ** found["draws"] >= 0.05:
                    told = f"cannot be told apart, by {found['draws']} draws (6 are the least), from"
                p = f"p = {found['p_value']:.3f}" if found["p_value"] >= 0.001 else "p < 0.001"
                points = f"{100 * found['difference']:+.1f} ± {100 * found['ci95']:.1f} points"
                sentences.append(
                    f"{shots_heading(shots)}: {found['method']} {told} {found['other']}{best}, {points}, {p}"
                )
    return sentences


def is_row_of(method: str, learners: Sequence[str]) -> bool:
    """Whether a row is that of a learner, or of one of its parts."""
    return any(method == name or method.startswith(f"{name}, ") for name in learners)


def class_tables(rows: Sequence[dict[str, Any]], learners: Sequence[str]) -> str:
    """Markdown: precision, recall and F1 of every class, for the learners at the most shots, over all draws."""
    most = max(row["shots"] for row in rows)
    parts = []
    for row in rows:
        if row["shots"] == most and row["method"] in learners:
            heading = ["class", "precision", "recall", "F1", "texts judged"]
            lines = [
                [name, *(f"{100 * scores[key]:.1f}" for key in ("precision", "recall", "f1-score")), scores["support"]]
                for name, scores in class_scores(row["confusion"]).items()
            ]
            title = f"{row['method']}, {shots_heading(most)}, all {row['draws']} draws together, in %:"
            parts.append(f"{title}\n\n{markdown_table(heading, lines)}")
    return "\n\n".join(parts)


def class_scores(confusion: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """scikit-learn's precision, recall, f1-score and support of each class, from confusion counts."""
    cells = [(label, answer, n) for label, answers in confusion.items() for answer, n in answers.items()]
    truth, given, counts = zip(*cells, strict=True)
    names = sorted({*truth, *given})
    found: dict[str, Any] = classification_report(
        truth, given, labels=names, sample_weight=counts, output_dict=True, zero_division=0
    )
    return {name: found[name] | {"support": int(found[name]["support"])} for name in names}


def shots_heading(number: int) -> str:
    """The heading of a column: 1 shot, 5 shots."""
    return f"{number} shot{'s' * (number > 1)}"
