"""Columns of a table, checked: errors name the file, row and column."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metatext.errors import InputError, suggest

if TYPE_CHECKING:
    from datasets import Dataset


LONE_SURROGATE = "the value holds half a character (a lone surrogate, as of a cut emoji)"


def column(rows: Dataset, name: str, path: str | Path) -> list[Any]:
    """The values of one column; the integers of a ClassLabel as their names.

    Args:
        rows: The rows.
        name: The column.
        path: Where the rows come from, for the error.

    Raises:
        InputError: if there is no such column, listing those that there are.
    """
    from datasets import ClassLabel

    if name not in rows.column_names:
        hint = "; these look like data: has the file no header row?" if look_like_data(rows.column_names) else ""
        raise InputError(f"{path} has no column {name!r}; {suggest(name, rows.column_names)}{hint}")
    values, feature = rows[name][:], rows.features[name]
    if isinstance(feature, ClassLabel):
        # -1 is how datasets marks the rows of a split without labels.
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    return values


def look_like_data(names: Sequence[str]) -> bool:
    """Whether column names look like the values of a first row: numbers, long texts, sentences."""
    return any(len(name) > 40 or name.isdigit() or re.search(r"[，。！？!?]", name) for name in names)


def checked_strings(values: Iterable[Any], where: str, column: str) -> list[str]:
    """The values as a list, once each is known to be a string with something in it.

    Args:
        values: The values of one column.
        where: The file or domain, for the error.
        column: The column's name, for the error.

    Raises:
        InputError: naming the first row (counted from 1) whose value is missing, blank or no string.
    """
    strings = []
    for row, value in enumerate(values, 1):
        if fault := _fault_of_string(value):
            raise InputError(f"{where}, row {row}, column {column!r}: {fault}")
        strings.append(value)
    return strings


def checked_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """Texts that a caller gives, as a list, once each is known to be a string with something in it.

    Raises:
        InputError: naming the first that is not, or one string in place of a list.
    """
    if isinstance(texts, str):
        raise InputError(f"{name} must be a list of strings, got one string")
    result = list(texts)
    for row, text in enumerate(result, 1):
        if not isinstance(text, str) or not text.strip():
            of = "" if name == "texts" else f" of {name}"
            raise InputError(f"text {row} of {len(result)}{of} must be a non-empty string, got {text!r}")
    return result


def _fault_of_string(value: Any) -> str | None:
    """What makes a value unusable as a text or a class name, or None."""
    if is_missing(value):
        return "there is no value"
    if not isinstance(value, str):
        return f"{reprlib.repr(value)} is not a string but of type {type(value).__name__}"
    if not value.strip():
        return "the value is blank"
    if has_lone_surrogate(value):
        return LONE_SURROGATE
    return None


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or one of pandas' marks for no value."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def has_lone_surrogate(value: str) -> bool:
    """Whether a string holds a lone surrogate, which neither Arrow nor a tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
