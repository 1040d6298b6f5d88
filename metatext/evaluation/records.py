"""How a method did on one draw, and the log that lets an interrupted evaluation go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from metatext.files import write_text


def logged_records(log: Path | None) -> list[Record]:
    """The records of a log; a last line that an interruption cut is taken off."""
    if not log or not log.exists():
        return []
    whole, _, cut = log.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        write_text(log, whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]


class Record(TypedDict):
    """How a method did on a draw; a line of the log."""

    method: str
    weights: str | None
    shots: int
    draw: int
    test_rows: int
    accuracy: float
    macro_f1: float
    calibration_error: float | None
    fit_seconds: float
    confusion: dict[str, dict[str, int]]
    """Test texts by their label, then by the answer."""
