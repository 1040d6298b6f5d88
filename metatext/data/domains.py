"""Labelled text data sets, read from files, records or the Hugging Face Hub, and checked row by row.

For example:

    Domain.from_file("weibo.csv", text="review", label="label", clean="weibo")
    Domain.from_hub("ag_news", split="test")
    Domain.from_records(["不错", "太差"], [1, 0], name="hotels")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from metatext.data.cleaning import clean_texts
from metatext.data.columns import checked_strings, column, is_missing
from metatext.data.readers import read_rows
from metatext.errors import InputError, quote_list, suggest


@dataclass(frozen=True)
class Domain:
    """A named data set of labelled texts; row `i` is `texts[i]` with `labels[i]`.

    Raises:
        InputError: if there are no rows, the lengths differ, or a text or label is blank or not a string.
    """

    name: str
    texts: list[str]
    labels: list[str]

    def __post_init__(self) -> None:
        where = f"domain {self.name!r}"
        if len(self.texts) != len(self.labels):
            raise InputError(f"{where} has {len(self.texts)} texts but {len(self.labels)} labels; each row needs both")
        if not self.texts:
            raise InputError(f"{where} has no rows")
        checked_strings(self.texts, where, "text")
        checked_strings(self.labels, where, "label")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.texts)

    @cached_property
    def classes(self) -> list[str]:
        """The class names, sorted."""
        return sorted(self.rows_of)

    @cached_property
    def rows_of(self) -> dict[str, list[int]]:
        """The row indices of each class, in ascending order."""
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(self.labels):
            rows.setdefault(label, []).append(row)
        return rows

    def subset(self, rows: Iterable[int], name: str | None = None) -> Domain:
        """The domain of some rows, in the order given.

        Args:
            rows: Row indices, counted from 0.
            name: The new domain's name; by default this one's.

        Raises:
            InputError: if no rows are given.
        """
        rows = list(rows)
        return Domain(name or self.name, [self.texts[row] for row in rows], [self.labels[row] for row in rows])

    def restrict(self, classes: Iterable[str]) -> Domain:
        """The domain of the rows whose label is among `classes`, in their order here.

        Raises:
            InputError: if a class does not occur here, or none is given.
        """
        chosen = set(classes)
        for label in sorted(chosen.difference(self.rows_of)):
            raise InputError(f"domain {self.name!r} has no class {label!r}; {suggest(label, self.classes)}")
        return self.subset(row for row, label in enumerate(self.labels) if label in chosen)

    def relabel(self, labels: Mapping[str, str]) -> Domain:
        """The domain of the rows whose label is a key of `labels`, with its value for a label.

        Raises:
            InputError: if a key does not occur here, or there is none.
        """
        chosen = self.restrict(labels)
        return Domain(self.name, chosen.texts, [labels[label] for label in chosen.labels])

    @classmethod
    def from_records(
        cls,
        texts: Iterable[str],
        labels: Iterable[Any],
        name: str = "records",
        clean: str | Sequence[str] | None = None,
    ) -> Domain:
        """A domain of texts and labels in memory: lists, arrays, columns of a DataFrame.

        Args:
            texts: One string a row.
            labels: One label a row: a string, int, bool, float or NumPy scalar. Its text is the class name: 1 gives
                "1", and so does 1.0, which is what pandas makes of a column of integers that once had gaps.
            name: The domain's name.
            clean: What to clean from the texts, as in `metatext.cleaning.resolve`.

        Raises:
            InputError: if the rows make no valid domain; a missing, NaN or blank value is named by its row.
        """
        return cls._checked(f"domain {name!r}", name, [("text", texts), ("label", labels)], clean)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        text: str = "text",
        label: str = "label",
        name: str | None = None,
        encoding: str | None = None,
        clean: str | Sequence[str] | None = None,
    ) -> Domain:
        """A domain from two columns of a file; the texts are kept to the character.

        Args:
            path: A CSV, TSV, JSON, JSON lines or Parquet file, see `read_rows`.
            text: The column of texts.
            label: The column of labels.
            name: The domain's name; by default the file's, without its suffix.
            encoding: The file's encoding, see `read_rows`.
            clean: What to clean from the texts, as in `metatext.cleaning.resolve`.

        Raises:
            FileNotFoundError: if there is no such file.
            InputError: if the file cannot be read, lacks a column, or a row lacks its text or label.
        """
        rows = read_rows(path, encoding)
        columns = [(text, column(rows, text, path)), (label, column(rows, label, path))]
        return cls._checked(str(path), name or Path(path).stem, columns, clean)

    @classmethod
    def each_from_file(
        cls,
        path: str | Path,
        by: str,
        text: str = "text",
        label: str = "label",
        encoding: str | None = None,
        clean: str | Sequence[str] | None = None,
    ) -> list[Domain]:
        """The domains of a file, one for each value of column `by`, in the order in which they first occur.

        Their names are the file's, without its suffix, and the value: "reviews/books". All else is as in `from_file`.

        Raises:
            FileNotFoundError: if there is no such file.
            InputError: if the file cannot be read, lacks a column, or a row lacks its text, label or domain.
        """
        rows, rows_of = read_rows(path, encoding), dict[str, list[int]]()
        columns = [(text, column(rows, text, path)), (label, column(rows, label, path))]
        whole = cls._checked(str(path), Path(path).stem, columns, clean)
        values = (_class_name(value) for value in column(rows, by, path))
        for row, value in enumerate(checked_strings(values, str(path), by)):
            rows_of.setdefault(value, []).append(row)
        return [whole.subset(some, f"{whole.name}/{value}") for value, some in rows_of.items()]

    @classmethod
    def from_hub(
        cls,
        path: str,
        config: str | None = None,
        split: str = "train",
        text: str = "text",
        label: str = "label",
        name: str | None = None,
        clean: str | Sequence[str] | None = None,
        revision: str | None = None,
    ) -> Domain:
        """A domain from one split of a data set on the Hugging Face Hub, or of a folder with data files.

        A private data set needs `hf auth login` or HF_TOKEN; code from the Hub is never run.

        Args:
            path: The data set's id, "owner/name", or a local folder.
            config: The configuration, where the data set has several.
            split: The split, also "train[:1000]".
            text: The column of texts.
            label: The column of labels; the integers of a ClassLabel become their names.
            name: The domain's name; by default the id, with the configuration.
            clean: What to clean from the texts, as in `metatext.cleaning.resolve`.
            revision: A branch, tag or commit of the data set.

        Raises:
            InputError: if it cannot be loaded, lacks a column, or a row lacks its text or label.
        """
        from datasets import load_dataset

        try:
            rows = load_dataset(path, config, split=split, revision=revision)
        except Exception as error:  # whatever the network, file and parsing libraries below it happen to raise
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot load split {split!r} of the data set {path!r}: {cause}") from error
        columns = [(text, column(rows, text, path)), (label, column(rows, label, path))]
        return cls._checked(path, name or (f"{path}/{config}" if config else path), columns, clean)

    @classmethod
    def _checked(
        cls, where: str, name: str, columns: Sequence[tuple[str, Iterable[Any]]], clean: str | Sequence[str] | None
    ) -> Domain:
        """The domain of a text and a label column (in this order), whose own names the errors give."""
        (text, texts), (label, labels) = columns
        if text == label:
            raise InputError(f"{where}: the texts and the labels cannot both be column {text!r}")
        return cls(
            name,
            clean_texts(checked_strings(texts, where, text), clean),
            checked_strings((_class_name(value) for value in labels), where, label),
        )


def shared_classes(domains: Sequence[Domain]) -> list[str]:
    """The classes that every domain has, sorted.

    Raises:
        InputError: if there are fewer than two.
    """
    shared = sorted(set.intersection(*(set(domain.classes) for domain in domains))) if domains else []
    if len(shared) < 2:
        found = "; ".join(f"{domain.name!r} has {quote_list(domain.classes)}" for domain in domains)
        raise InputError(
            f"no overlap of label sets, the domains must share at least two classes: {found or 'none given'}"
        )
    return shared


def _class_name(value: Any) -> Any:
    """The class name of an int, bool, float or NumPy scalar; any other value, and NaN, as it is."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, float)) and not is_missing(value) else value
