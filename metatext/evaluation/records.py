"""The results of methods on draws, and the log from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from metatext.files import write_text


def logged_records(log: Path | None) -> list[Record]:
    """Reads the records of a log and removes an incomplete last line, which an interruption leaves, from the file."""
    if not log or not log.exists():
        return []
    whole, _, cut = log.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        write_text(log, whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]


class Record(TypedDict):
    """The result of a method on a draw; a line of the log."""

    method: str
    """Name of the method's row."""
    weights: str | None
    """Digest of the learner's weights; None for baselines."""
    shots: int
    """Labelled texts per class."""
    draw: int
    """Number of the draw among those with as many shots."""
    test_rows: int
    """Number of test texts."""
    accuracy: float
    """From 0 to 1."""
    macro_f1: float
    """Mean F1 over the classes of the test texts, from 0 to 1."""
    calibration_error: float | None
    """Expected calibration error, from 0 to 1; None if the method gives no probabilities."""
    fit_seconds: float
    """Seconds that fitting took."""
    confusion: dict[str, dict[str, int]]
    """Numbers of test texts, {label: {predicted label: texts}}."""
    correct: str
    """Which of the draw's test texts were answered correctly; bits as hexadecimal digits (`intervals.to_bits`)."""
    truth: list[int]
    """Class index of each test text."""
    predicted: list[int]
    """Predicted class index of each test text."""


LONG_FIELDS = ("confusion", "truth", "predicted")
"""Fields that a result leaves out, because its rows have what follows from them."""
