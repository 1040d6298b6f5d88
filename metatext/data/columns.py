"""Reads and checks the columns of a table; errors name the file, row and column."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metatext.errors import InputError, suggest

if TYPE_CHECKING:
    from datasets import Dataset

LONE_SURROGATE = "the value holds half a character (a lone surrogate, as of a cut emoji)"


def column(rows: Dataset, name: str, path: str | Path) -> list[Any]:
    """Returns the values of one column; the integers of a ClassLabel feature become their names.

    Args:
        rows: The table.
        name: The name of the column.
        path: The origin of the rows, for the error message.

    Raises:
        InputError: there is no such column; the message lists the columns of the table.
    """
    from datasets import ClassLabel

    if name not in rows.column_names:
        hint = "; these look like data: does the file have a header row?" if look_like_data(rows.column_names) else ""
        raise InputError(f"{path} has no column {name!r}; {suggest(name, rows.column_names)}{hint}")
    values: list[Any] = rows[name][:]
    feature = rows.features[name]
    if isinstance(feature, ClassLabel):
        # The datasets library marks rows without a label by -1.
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    return values


def look_like_data(names: Sequence[str]) -> bool:
    """Returns whether column names look like values, which suggests that the file has no header row.

    Signs are a number, a name longer than 40 characters, and the punctuation of a sentence.
    """
    return any(len(name) > 40 or name.isdigit() or re.search(r"[，。！？!?]", name) for name in names)


def checked_strings(values: Iterable[Any], where: str, column: str) -> list[str]:
    """Returns the values as a list after checking that each is a string that is not blank.

    Args:
        values: The values of one column.
        where: The file or domain, for the error message.
        column: The name of the column, for the error message.

    Raises:
        InputError: a value is missing, blank, not a string, or not encodable; the message names the first such row,
            counted from 1.
    """
    strings = []
    for row, value in enumerate(values, 1):
        if fault := _string_fault(value):
            raise InputError(f"{where}, row {row}, column {column!r}: {fault}")
        strings.append(value)
    return strings


def checked_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """Returns the texts that a caller passed as a list, after checking that each is a string that is not blank.

    Args:
        texts: The texts.
        name: The name of the argument, for the error message.

    Raises:
        InputError: a text is blank or not a string (the message gives its number), or `texts` is a single string.
    """
    if isinstance(texts, str):
        raise InputError(f"{name} must be a list of strings, got one string")
    result = list(texts)
    for row, text in enumerate(result, 1):
        if not isinstance(text, str) or not text.strip():
            of = "" if name == "texts" else f" of {name}"
            raise InputError(f"text {row} of {len(result)}{of} must be a non-empty string, got {text!r}")
    return result


def checked_pairs(texts: Sequence[str], labels: Sized) -> list[str]:
    """Returns the texts as `checked_texts` does, after checking that there are as many labels.

    Raises:
        InputError: as `checked_texts`; or texts and labels differ in number.
    """
    result = checked_texts(texts)
    if len(result) != len(labels):
        raise InputError(f"{len(result)} texts but {len(labels)} labels: each text needs one label")
    return result


def _string_fault(value: Any) -> str | None:
    """Returns why a value cannot be used as a text or a class name, or None if it can."""
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
    """Returns whether a value is None, NaN, or the NA or NaT of pandas."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def has_lone_surrogate(value: str) -> bool:
    """Returns whether a string has a lone surrogate, which neither Arrow nor a tokenizer can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
