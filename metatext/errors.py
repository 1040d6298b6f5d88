"""The error that metatext raises for what a user can put right."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(name: str, names: Sequence[str]) -> str:
    """The end of an error about an unknown name: the names that there are, and the nearest one."""
    close = difflib.get_close_matches(name.strip().lower(), [other.strip().lower() for other in names], n=1)
    near = next((other for other in names if other.strip().lower() in close), None)
    return f"there are {quote_list(names)}" + (f"; did you mean {near!r}?" if near else "")


def quote_list(names: Sequence[str], most: int = 12) -> str:
    """Names in quotes; those beyond `most`, and the rest of a long one, are left out."""
    shown = ", ".join(repr(name if len(name) <= 40 else name[:39] + "…") for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the file, row, column or option and says what would be right; the command
    line prints it as it is.
    """
