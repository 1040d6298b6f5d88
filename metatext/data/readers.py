"""Tables of any file type that users have, read exactly: encodings, delimiters, and errors that name the row."""

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
_SUFFIXES = (*_DELIMITERS, *_JSON_LINES, ".json", ".parquet")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BLANK_BYTES = codecs.BOM_UTF8 + codecs.BOM_UTF16_LE + b"\0 \t\r\n"
_SURELY_UTF8 = 8  # characters beyond ASCII that decode before the first bad byte; GB18030 text does not get so far
# NaN is no JSON, but pandas users have it in their files and mean a missing value.
_JSON = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))


def read_rows(path: str | Path, encoding: str | None = None) -> Dataset:
    """Every column of a file, its rows in order and its values unchanged.

    The suffix tells the type: .csv and .tsv (values stay text: "NA", "null" and "001" are what they are), .jsonl,
    .ndjson and .json (an array of objects, an object of columns, or {"data": [...]}), .parquet. A file with any other
    suffix is read if it holds JSON. The files are parsed here rather than by `datasets`, whose readers guess types and
    missing values and write a cache.

    Args:
        path: The file.
        encoding: The encoding of a text file. By default its byte order mark decides, then UTF-8, then GB18030, and
            the last one logs a warning.

    Returns:
        A `datasets.Dataset` in memory. A field that a JSON object lacks, and NaN, is None; a JSON field whose values
        have no common type, such as 1 and "x", is text.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is a folder, empty, of unknown type, malformed, or in another encoding.
    """
    path = Path(path)
    data, suffix = _bytes(path), path.suffix.lower()
    first = data.lstrip(_BLANK_BYTES)[:1]
    if suffix == ".parquet":
        rows = _parquet_dataset(data, path)
    elif suffix in _DELIMITERS:
        rows = _dataset(_delimited_columns(_decode(data, path, encoding), path, _DELIMITERS[suffix]), path)
    elif suffix in _SUFFIXES or first in (b"[", b"{"):
        rows = _dataset(_json_columns(_json_document(_decode(data, path, encoding), path), path), path)
    else:
        raise InputError(
            f"{path} is of no known type: its suffix is none of {', '.join(_SUFFIXES)}, and it is not JSON"
        )
    if not len(rows):
        raise InputError(f"{path} has no rows")
    return rows


def read_texts(path: str | Path, text: str, encoding: str | None = None) -> tuple[Dataset, list[str]]:
    """The rows of a file and the texts in column `text`; in a .txt file, unless it is JSON, each line is a row.

    A line that is blank is none.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: as `read_rows`; there is no such column; a row has no text.
    """
    from datasets import Dataset

    path = Path(path)
    try:
        rows = read_rows(path, encoding)
    except InputError:
        if path.suffix.lower() != ".txt":
            raise
        # not str.splitlines, which takes U+2028 and the like for ends of lines, and they stand within texts
        content = _decode(_bytes(path), path, encoding)
        lines = [line for line in re.split(r"\r\n|\n|\r", content) if line.strip()]
        if not lines:
            raise InputError(f"{path} is empty") from None
        if lines[0].lstrip().startswith("{"):  # JSON with a fault
            raise
        rows = Dataset.from_dict({text: lines})
    return rows, checked_strings(column(rows, text, path), str(path), text)


def _bytes(path: Path) -> bytes:
    """What a file holds, which is something."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file ({', '.join(_SUFFIXES)})")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    if not data.strip(_BLANK_BYTES):
        raise InputError(f"{path} is empty")
    return data


def _decode(data: bytes, path: Path, encoding: str | None) -> str:
    """The text of a file, without its byte order mark."""
    marked = next((codec for mark, codec in _BOMS if data.startswith(mark)), None)
    codec = encoding or marked or "utf-8"
    try:
        return data.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        fault = error
    except (LookupError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {codec!r} is not a text encoding that Python knows") from error
    readable, tried = data[: fault.start].decode(codec, "ignore"), codec
    # A UTF-8 file with one broken byte often is valid, senseless GB18030.
    if not (encoding or marked) and sum(not character.isascii() for character in readable) < _SURELY_UTF8:
        try:
            content = data.decode("gb18030")
        except UnicodeDecodeError:
            tried = "utf-8, gb18030"
        else:
            logger.warning("%s is not UTF-8: read as GB18030 (name the encoding if that is wrong)", path)
            return content
    place = f"{path}, line {readable.count(chr(10)) + 1}"
    raise InputError(
        f"{place}: byte 0x{data[fault.start]:02x} is not valid in its encoding (tried {tried}); pass the right one"
    )


def _delimited_columns(content: str, path: Path, delimiter: str) -> dict[str, list[Any]]:
    """The columns of a CSV or TSV file."""
    try:
        header, *records = _delimited_rows(content, path, delimiter, csv.QUOTE_MINIMAL)
    except InputError as error:
        if delimiter != "\t":
            raise
        try:  # many TSV files quote nothing, and a quotation mark that opens a text is just a character
            header, *records = _delimited_rows(content, path, delimiter, csv.QUOTE_NONE)
        except InputError:
            raise error from None
        logger.warning("%s: quotation marks do not pair up, so they are read as part of the texts", path)
    for name in header:
        if header.count(name) > 1:
            hint = "; has the file no header row?" if look_like_data(header) else ""
            raise InputError(f"{path}, line 1: the header names column {name!r} more than once{hint}")
    return {name: [record[place] for record in records] for place, name in enumerate(header)}


def _delimited_rows(content: str, path: Path, delimiter: str, quoting: Any) -> list[list[str]]:
    """The header and the records, all of the header's length; blank lines are left out."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    usual_limit = csv.field_size_limit(len(content))  # 131,072 characters; documents may be longer
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
    """The value of a JSON file, or the list of those of a JSON lines file, which may be called .json or .txt too."""
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
    for line, record in enumerate(content.split("\n"), 1):  # not splitlines: a text may hold U+2028
        if record.strip():
            try:
                records.append(_JSON.decode(record))
            except json.JSONDecodeError as error:
                raise _broken_json(path, line, error) from error
    return records


def _broken_json(path: Path, line: int, error: json.JSONDecodeError) -> InputError:
    return InputError(f"{path}, line {line}: not valid JSON at character {error.colno} ({error.msg})")


def _json_columns(document: Any, path: Path) -> dict[str, list[Any]]:
    """The columns of an array of objects, of {"data": array of objects}, of an object of columns or of one object."""
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
    """The columns in Arrow."""
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
    """The values in Arrow; as text where they have no common type.

    The Json type of `datasets` would be there for such values, but it turns the string "03" into the number 3.
    """
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        as_is = (str, type(None))
        texts = [value if isinstance(value, as_is) else json.dumps(value, ensure_ascii=False) for value in values]
        return pyarrow.array(texts)


def _parquet_dataset(data: bytes, path: Path) -> Dataset:
    """The rows of a Parquet file, with the features (such as ClassLabel) that `datasets` has left in it."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        return Dataset(pyarrow.parquet.read_table(pyarrow.BufferReader(data)))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {error}") from error
