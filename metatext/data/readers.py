"""Reads tables from CSV, TSV, JSON, JSON lines and Parquet files without changing a value; errors name the row."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metatext.data.columns import LONE_SURROGATE, checked_strings, column, has_lone_surrogate, look_like_data
from metatext.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*_DELIMITERS, *_JSON_LINES, ".json", ".parquet")
"""Suffixes of tables that are read."""
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BLANK_BYTES = codecs.BOM_UTF8 + codecs.BOM_UTF16_LE + b"\0 \t\r\n"
# If this many non-ASCII characters decode as UTF-8 before the first bad byte, the file is UTF-8 with an error. In
# GB18030 text, a bad byte comes earlier.
_MIN_UTF8_CHARACTERS = 8
# NaN is not valid JSON, but pandas writes it for a missing value.
_JSON = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))


def read_rows(path: str | Path, encoding: str | None = None) -> Dataset:
    """Reads all columns of a file, with its rows in order and its values unchanged.

    The suffix decides the format:

    - .csv, .tsv: all values are strings; "NA", "null" and "001" are not converted.
    - .jsonl, .ndjson: one object per line.
    - .json: an array of objects, an object of columns, or {"data": [...]}.
    - .parquet: Apache Parquet.

    A file with any other suffix is read as JSON if it starts like JSON. The readers of the `datasets` library are not
    used, because they guess types and missing values and write a cache.

    Args:
        path: The file.
        encoding: The encoding of a text file. By default the byte order mark decides, then UTF-8, then GB18030, which
            logs a warning.

    Returns:
        A `datasets.Dataset` in memory. A field that a JSON object lacks is None, and so is NaN. A JSON field whose
        values have no common type, such as 1 and "x", becomes text.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the path is a folder, or the file is empty, of unknown type, malformed, or in another encoding.
    """
    path = Path(path)
    data, suffix = _bytes(path), path.suffix.lower()
    first = data.lstrip(_BLANK_BYTES)[:1]
    if suffix == ".parquet":
        rows = _parquet_dataset(data, path)
    elif suffix in _DELIMITERS:
        rows = _dataset(_delimited_columns(_decode(data, path, encoding), path, _DELIMITERS[suffix]), path)
    elif suffix in SUFFIXES or first in (b"[", b"{"):
        rows = _dataset(_json_columns(_json_document(_decode(data, path, encoding), path), path), path)
    else:
        raise InputError(f"{path} is of no known type: its suffix is none of {', '.join(SUFFIXES)}, and it is not JSON")
    if not len(rows):
        raise InputError(f"{path} has no rows")
    return rows


def read_texts(path: str | Path, text: str, encoding: str | None = None) -> tuple[Dataset, list[str]]:
    """Reads the rows of a file and checks the texts in column `text`.

    In a .txt file that is not JSON, each line that is not blank is a row.

    Args:
        path: The file.
        text: The name of the column of texts.
        encoding: The encoding, as in `read_rows`.

    Returns:
        (all columns, the texts).

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file cannot be read (see `read_rows`), there is no such column, or a row has no text.
    """
    from datasets import Dataset

    path = Path(path)
    try:
        rows = read_rows(path, encoding)
    except InputError:
        if path.suffix.lower() != ".txt":
            raise
        # str.splitlines would also split at U+2028 and other characters that occur inside texts.
        content = _decode(_bytes(path), path, encoding)
        lines = [line for line in re.split(r"\r\n|\n|\r", content) if line.strip()]
        if not lines:
            raise InputError(f"{path} is empty") from None
        if lines[0].lstrip().startswith("{"):  # malformed JSON, not lines of text
            raise
        rows = Dataset.from_dict({text: lines})
    return rows, checked_strings(column(rows, text, path), str(path), text)


def _bytes(path: Path) -> bytes:
    """Returns the content of a file that exists and is not blank."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file ({', '.join(SUFFIXES)})")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    if not data.strip(_BLANK_BYTES):
        raise InputError(f"{path} is empty")
    return data


def _decode(data: bytes, path: Path, encoding: str | None) -> str:
    """Decodes the content of a file and removes its byte order mark; without `encoding`, the encoding is guessed."""
    bom_codec = next((codec for mark, codec in _BOMS if data.startswith(mark)), None)
    codec = encoding or bom_codec or "utf-8"
    try:
        return data.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        fault = error
    except (LookupError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {codec!r} is not a text encoding that Python knows") from error
    readable, tried = data[: fault.start].decode(codec, "ignore"), codec
    # A UTF-8 file with one bad byte is often valid GB18030 too, but the text is then garbled.
    non_ascii = sum(not character.isascii() for character in readable)
    if not (encoding or bom_codec) and non_ascii < _MIN_UTF8_CHARACTERS:
        try:
            content = data.decode("gb18030")
        except UnicodeDecodeError:
            tried = "utf-8, gb18030"
        else:
            logger.warning("%s is not UTF-8: read as GB18030 (name the encoding if that is wrong)", path)
            return content
    line = readable.count("\n") + 1
    raise InputError(
        f"{path}, line {line}: byte 0x{data[fault.start]:02x} is not valid in its encoding (tried {tried}); "
        "pass the right one"
    )


def _delimited_columns(content: str, path: Path, delimiter: str) -> dict[str, list[Any]]:
    """Parses the content of a CSV or TSV file into column name -> values."""
    try:
        header, *records = _delimited_rows(content, path, delimiter, csv.QUOTE_MINIMAL)
    except InputError as error:
        if delimiter != "\t":
            raise
        try:  # many TSV files do not use quoting: a quotation mark is then an ordinary character
            header, *records = _delimited_rows(content, path, delimiter, csv.QUOTE_NONE)
        except InputError:
            raise error from None
        logger.warning("%s: quotation marks do not pair up, so they are read as part of the texts", path)
    for name in header:
        if header.count(name) > 1:
            hint = "; does the file have a header row?" if look_like_data(header) else ""
            raise InputError(f"{path}, line 1: the header names column {name!r} more than once{hint}")
    return {name: [record[index] for record in records] for index, name in enumerate(header)}


def _delimited_rows(content: str, path: Path, delimiter: str, quoting: Any) -> list[list[str]]:
    """Parses the header and the records and checks that all have the same length; blank lines are skipped."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    usual_limit = csv.field_size_limit(len(content))  # the default, 131,072 characters, is short for documents
    rows: list[list[str]] = []
    line = 1
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise InputError(
                    f"{path}, line {line}: {len(row)} fields where the header has {len(rows[0])}; "
                    f"a text that holds the separator {delimiter!r} must stand in double quotes"
                )
            if row:
                rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: the quoting is broken ({error}); double quotes inside a quoted text must be doubled"
        ) from error
    finally:
        csv.field_size_limit(usual_limit)
    return rows


def _json_document(content: str, path: Path) -> Any:
    """Parses a JSON file into its value, or a JSON lines file into a list; a .json or .txt file may be either."""
    start = len(content) - len(content.lstrip())
    if path.suffix.lower() not in _JSON_LINES or content[start : start + 1] == "[":
        try:
            document, end = _JSON.raw_decode(content, start)
        except json.JSONDecodeError as error:
            raise _broken_json(path, error.lineno, error) from error
        rest = content[end:].lstrip()
        if not rest:
            return document
        if not isinstance(document, dict):
            line = content.count("\n", 0, len(content) - len(rest)) + 1
            raise InputError(f"{path}, line {line}: not valid JSON, there is something behind its end")
    records = []
    for line, record in enumerate(content.split("\n"), 1):  # splitlines would split at U+2028 inside a text
        if record.strip():
            try:
                records.append(_JSON.decode(record))
            except json.JSONDecodeError as error:
                raise _broken_json(path, line, error) from error
    return records


def _broken_json(path: Path, line: int, error: json.JSONDecodeError) -> InputError:
    return InputError(f"{path}, line {line}: not valid JSON at character {error.colno} ({error.msg})")


def _json_columns(document: Any, path: Path) -> dict[str, list[Any]]:
    """Turns a parsed JSON document into column name -> values.

    The document is an array of objects, {"data": array of objects}, an object of columns, or one object (one row).
    """
    if isinstance(document, dict):
        data = document.get("data")
        if isinstance(data, list) and all(isinstance(record, dict) for record in data):
            document = data
        elif document and all(isinstance(values, list) for values in document.values()):
            if len({len(values) for values in document.values()}) > 1:
                lengths = ", ".join(f"{name!r} {len(values)}" for name, values in document.items())
                raise InputError(f"{path}: the columns differ in length ({lengths})")
            return document
        else:
            document = [document]
    if not isinstance(document, list):
        raise InputError(f"{path} holds {reprlib.repr(document)}, not an array of objects")
    for row, record in enumerate(document, 1):
        if not isinstance(record, dict):
            raise InputError(f"{path}, row {row}: {reprlib.repr(record)} is not an object with named fields")
    names = dict.fromkeys(name for record in document for name in record)
    return {name: [record.get(name) for record in document] for name in names}


def _dataset(columns: Mapping[str, list[Any]], path: Path) -> Dataset:
    """Builds a `datasets.Dataset` from columns; `path` is for the error message."""
    import pyarrow
    from datasets import Dataset

    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = _arrow_array(values)
        except UnicodeEncodeError as error:
            row = next(
                row for row, value in enumerate(values, 1) if has_lone_surrogate(json.dumps(value, ensure_ascii=False))
            )
            raise InputError(f"{path}, row {row}, column {name!r}: {LONE_SURROGATE}") from error
    return Dataset(pyarrow.table(arrays))


def _arrow_array(values: list[Any]) -> Any:
    """Returns the values as an Arrow array; values without a common type become text.

    The Json type of the `datasets` library is not used for these, because it turns the string "03" into the number 3.
    """
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        unchanged = (str, type(None))
        texts = [value if isinstance(value, unchanged) else json.dumps(value, ensure_ascii=False) for value in values]
        return pyarrow.array(texts)


def _parquet_dataset(data: bytes, path: Path) -> Dataset:
    """Reads a Parquet file; features that the `datasets` library stored in it, such as ClassLabel, are kept."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        return Dataset(pyarrow.parquet.read_table(pyarrow.BufferReader(data)))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {error}") from error
