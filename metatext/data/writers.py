"""Writes tables as .jsonl, .json, .csv or .parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metatext.errors import InputError
from metatext.files import new_file

if TYPE_CHECKING:
    from datasets import Dataset

_WRITABLE = (".jsonl", ".json", ".csv", ".parquet")


def check_writable(path: str | Path) -> None:
    """Checks that `write_rows` knows the suffix of `path`.

    Raises:
        InputError: the suffix is another than .jsonl, .json, .csv or .parquet.
    """
    if Path(path).suffix not in _WRITABLE:
        raise InputError(f"cannot write {path}: its name must end in one of {', '.join(_WRITABLE)}")


def write_rows(rows: Dataset, path: str | Path) -> None:
    """Writes a table to a .jsonl, .json, .csv or .parquet file, atomically; the suffix decides the format.

    Raises:
        InputError: the suffix is another.
    """
    path = Path(path)
    check_writable(path)
    writers = {
        ".jsonl": lambda file: rows.to_json(file, force_ascii=False),
        ".json": lambda file: rows.to_json(file, force_ascii=False, lines=False, orient="records"),
        ".csv": lambda file: rows.to_csv(file, index=False),
        ".parquet": rows.to_parquet,
    }
    with new_file(path) as temporary:
        writers[path.suffix](str(temporary))
