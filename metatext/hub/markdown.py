"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(heading: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table with one line per row.

    Example:
        >>> print(markdown_table(["class", "texts"], [["sports", 5]]))
        | class | texts |
        |---|---|
        | sports | 5 |
    """
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in [heading, *rows]]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]])


def cell(value: object) -> str:
    """Returns the text of a value for a table cell: line breaks become spaces, and each | is escaped."""
    return " ".join(str(value).split()).replace("|", "\\|")
