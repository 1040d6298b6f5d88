"""`InputError`, the error for mistakes that the user can correct, and helpers that word its messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(name: str, names: Sequence[str]) -> str:
    """Returns the end of an error message about an unknown name: the known names and the nearest match, if any.

    Case and surrounding spaces are ignored in the search for the nearest match.

    Example:
        >>> suggest("Txt", ["text", "label"])
        "there are 'text', 'label'; did you mean 'text'?"
    """
    close = difflib.get_close_matches(name.strip().lower(), [other.strip().lower() for other in names], n=1)
    nearest = next((other for other in names if other.strip().lower() in close), None)
    return f"there are {quote_list(names)}" + (f"; did you mean {nearest!r}?" if nearest else "")


def quote_list(names: Sequence[str], most: int = 12) -> str:
    """Returns the first `most` names in quotes and the number of the others; a name is cut to 40 characters.

    Example:
        >>> quote_list(["books", "hotels", "films"], most=2)
        "'books', 'hotels' and 1 more"
    """
    shown = ", ".join(repr(name if len(name) <= 40 else name[:39] + "…") for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


class InputError(ValueError):
    """Raised when a value, file or option from the user cannot be used.

    The message is one sentence. It names the file, row, column or option and says what would be right. The command
    line prints it unchanged.
    """
