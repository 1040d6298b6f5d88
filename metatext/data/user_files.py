"""The files that a user names, read as `Table` says."""

from __future__ import annotations

from collections.abc import Sequence

from metatext.data.cleaning import clean_texts
from metatext.data.domains import Domain
from metatext.data.readers import read_texts
from metatext.data.settings import Table
from metatext.errors import InputError


def read_domain(path: str, table: Table) -> Domain:
    """The file, or the data set hub:ID[:CONFIG[:SPLIT]] on the Hub, as one domain."""
    how = {"text": table.text, "label": table.label}
    clean = table.clean or None
    if path.startswith("hub:"):
        name, config, split, *_ = [*path[4:].split(":"), "", ""]
        return Domain.from_hub(name, config or None, split or "train", clean=clean, **how)
    return Domain.from_file(path, encoding=table.encoding, clean=clean, **how)


def read_domains(paths: Sequence[str], table: Table) -> list[Domain]:
    """The domains of source files: each file is one, or as many as column `table.by` has values.

    Raises:
        InputError: `table.by` with a data set on the Hub; a bad file.
        FileNotFoundError: a file is not there.
    """
    if table.by is None:
        return [read_domain(path, table) for path in paths]
    if any(path.startswith("hub:") for path in paths):
        raise InputError(f"--by {table.by} parts files into domains, not data sets on the Hub: name files")
    how = (table.by, table.text, table.label, table.encoding, table.clean or None)
    return [domain for path in paths for domain in Domain.each_from_file(path, *how)]


def read_unlabelled(paths: Sequence[str], table: Table) -> list[str]:
    """The texts of files, whose rows need no label; in a .txt file each line is a text."""
    texts = [text for path in paths for text in read_texts(path, table.text, table.encoding)[1]]
    return clean_texts(texts, table.clean or None)
