"""Reads the files that a user names, with the columns, encoding and cleaning that a `Table` gives."""

from __future__ import annotations

from collections.abc import Sequence

from metatext.data.cleaning import clean_texts
from metatext.data.domains import Domain
from metatext.data.readers import read_texts
from metatext.data.settings import Table
from metatext.errors import InputError


def read_domain(path: str, table: Table) -> Domain:
    """Reads one domain from a file, or from a data set on the Hub written hub:ID[:CONFIG[:SPLIT]].

    The configuration is optional and the split is "train" by default. `table.by` is ignored.

    Raises:
        InputError: the data cannot be read, or a row lacks its text or label.
        FileNotFoundError: the file does not exist.
    """
    columns = {"text": table.text, "label": table.label}
    clean = table.clean or None
    if path.startswith("hub:"):
        name, config, split, *_ = [*path[4:].split(":"), "", ""]
        return Domain.from_hub(name, config or None, split or "train", clean=clean, **columns)
    return Domain.from_file(path, encoding=table.encoding, clean=clean, **columns)


def read_domains(paths: Sequence[str], table: Table) -> list[Domain]:
    """Reads source files: one domain per file or, if `table.by` is set, one per file and value of that column.

    Raises:
        InputError: a file cannot be read, or `table.by` is set for a data set on the Hub.
        FileNotFoundError: a file does not exist.
    """
    if table.by is None:
        return [read_domain(path, table) for path in paths]
    if any(path.startswith("hub:") for path in paths):
        raise InputError(f"--by {table.by} parts files into domains, not data sets on the Hub: name files")
    options = (table.by, table.text, table.label, table.encoding, table.clean or None)
    return [domain for path in paths for domain in Domain.each_from_file(path, *options)]


def read_unlabelled(paths: Sequence[str], table: Table) -> list[str]:
    """Reads and cleans the texts of files in which rows need no label; in a .txt file, each line is a text.

    Raises:
        InputError: a file cannot be read, or a row has no text.
        FileNotFoundError: a file does not exist.
    """
    texts = [text for path in paths for text in read_texts(path, table.text, table.encoding)[1]]
    return clean_texts(texts, table.clean or None)
