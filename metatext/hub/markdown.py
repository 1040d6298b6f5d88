"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(heading: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A heading, and a line a row."""
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in [heading, *rows]]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]])


def cell(value: object) -> str:
    """One line of Markdown that stays inside its table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
