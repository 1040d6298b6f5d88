"""How a method did on one draw: what an evaluation keeps, and a report is made from."""

from __future__ import annotations

from typing import TypedDict


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
