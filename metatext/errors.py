"""The error that metatext raises for what a user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the file, row, column or option and says what would be right; the command
    line prints it as it is.
    """
