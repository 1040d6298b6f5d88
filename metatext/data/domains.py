"""`Domain`, a labelled text data set read from a file, the Hugging Face Hub or memory, and checked row by row.

Usage:

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
    """A named data set of labelled texts; row `i` has the text `texts[i]` and the class name `labels[i]`.

    Raises:
        InputError: there are no rows, the lengths differ, or a text or label is blank or not a string.

    Example:
        >>> hotels = Domain("hotels", ["nice", "noisy", "clean"], ["positive", "negative", "positive"])
        >>> hotels.classes
        ['negative', 'positive']
        >>> hotels.restrict(["positive"]).texts
        ['nice', 'clean']
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
        """Returns the number of rows."""
        return len(self.texts)

    @cached_property
    def classes(self) -> list[str]:
        """The class names, sorted."""
        return sorted(self.rows_of)

    @cached_property
    def rows_of(self) -> dict[str, list[int]]:
        """Class name -> its row indices, in ascending order."""
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(self.labels):
            rows.setdefault(label, []).append(row)
        return rows

    def subset(self, rows: Iterable[int], name: str | None = None) -> Domain:
        """Returns a domain of the given rows, in the given order.

        Args:
            rows: Row indices, counted from 0.
            name: The name of the new domain; by default the name of this one.

        Raises:
            InputError: `rows` is empty.
        """
        rows = list(rows)
        return Domain(name or self.name, [self.texts[row] for row in rows], [self.labels[row] for row in rows])

    def restrict(self, classes: Iterable[str]) -> Domain:
        """Returns a domain of the rows whose label is in `classes`, in their present order.

        Raises:
            InputError: a class does not occur in this domain, or `classes` is empty.
        """
        chosen = set(classes)
        for label in sorted(chosen.difference(self.rows_of)):
            raise InputError(f"domain {self.name!r} has no class {label!r}; {suggest(label, self.classes)}")
        return self.subset(row for row, label in enumerate(self.labels) if label in chosen)

    def relabel(self, labels: Mapping[str, str]) -> Domain:
        """Returns a domain of the rows whose label is a key of `labels`; the value is the new label.

        Raises:
            InputError: a key does not occur in this domain, or `labels` is empty.
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
        """Creates a domain from texts and labels in memory: lists, arrays, columns of a DataFrame.

        Args:
            texts: One string per row.
            labels: One label per row: a string, int, bool, float or NumPy scalar. The class name is its text. Both 1
                and 1.0 give "1", because pandas turns a column of integers with missing values into floats.
            name: The name of the domain.
            clean: What to clean from the texts, as in `metatext.data.cleaning.resolve_steps`.

        Raises:
            InputError: the rows make no valid domain; the message names the row of a missing, NaN or blank value.

        Example:
            >>> Domain.from_records(["不错", "太差"], [1, 0.0], name="hotels").labels
            ['1', '0']
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
        """Reads a domain from two columns of a file; without `clean`, every character of a text is kept.

        Args:
            path: A CSV, TSV, JSON, JSON lines or Parquet file; see `metatext.data.readers.read_rows`.
            text: The column of texts.
            label: The column of labels.
            name: The name of the domain; by default the name of the file without its suffix.
            encoding: The encoding of the file; see `read_rows` for the default.
            clean: What to clean from the texts, as in `metatext.data.cleaning.resolve_steps`.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file cannot be read or lacks a column, or a row lacks its text or label.
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
        """Reads the domains of a file: one per value of column `by`, in the order in which the values first occur.

        A domain is named after the file, without its suffix, and the value: "reviews/books". The other arguments are
        those of `from_file`.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file cannot be read or lacks a column, or a row lacks its text, label or domain.
        """
        rows, rows_of = read_rows(path, encoding), dict[str, list[int]]()
        columns = [(text, column(rows, text, path)), (label, column(rows, label, path))]
        whole = cls._checked(str(path), Path(path).stem, columns, clean)
        values = (_class_name(value) for value in column(rows, by, path))
        for row, value in enumerate(checked_strings(values, str(path), by)):
            rows_of.setdefault(value, []).append(row)
        return [whole.subset(indices, f"{whole.name}/{value}") for value, indices in rows_of.items()]

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
        """Loads a domain from one split of a data set on the Hugging Face Hub, or of a local folder with data files.

        A private data set needs `hf auth login` or HF_TOKEN. Code from the Hub is never run.

        Args:
            path: The id of the data set, "owner/name", or a local folder.
            config: The configuration, if the data set has several.
            split: The split; slices such as "train[:1000]" are allowed.
            text: The column of texts.
            label: The column of labels; the integers of a ClassLabel feature become their names.
            name: The name of the domain; by default "owner/name", or "owner/name/config".
            clean: What to clean from the texts, as in `metatext.data.cleaning.resolve_steps`.
            revision: A branch, tag or commit of the data set.

        Raises:
            InputError: the data set cannot be loaded or lacks a column, or a row lacks its text or label.
        """
        from datasets import load_dataset

        try:
            rows = load_dataset(path, config, split=split, revision=revision)
        except Exception as error:  # load_dataset passes on errors of many network, file and parsing libraries
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot load split {split!r} of the data set {path!r}: {cause}") from error
        columns = [(text, column(rows, text, path)), (label, column(rows, label, path))]
        return cls._checked(path, name or (f"{path}/{config}" if config else path), columns, clean)

    @classmethod
    def _checked(
        cls, where: str, name: str, columns: Sequence[tuple[str, Iterable[Any]]], clean: str | Sequence[str] | None
    ) -> Domain:
        """Creates a domain after checking its columns.

        Args:
            where: The file or data set, for the error messages.
            name: The name of the domain.
            columns: (name, values) of the text column, then of the label column.
            clean: What to clean from the texts.
        """
        (text, texts), (label, labels) = columns
        if text == label:
            raise InputError(f"{where}: the texts and the labels cannot both be column {text!r}")
        return cls(
            name,
            clean_texts(checked_strings(texts, where, text), clean),
            checked_strings((_class_name(value) for value in labels), where, label),
        )


def shared_classes(domains: Sequence[Domain]) -> list[str]:
    """Returns the classes that all domains have in common, sorted.

    Raises:
        InputError: there are fewer than two.
    """
    shared = sorted(set.intersection(*(set(domain.classes) for domain in domains))) if domains else []
    if len(shared) < 2:
        found = "; ".join(f"{domain.name!r} has {quote_list(domain.classes)}" for domain in domains)
        raise InputError(
            f"no overlap of label sets, the domains must share at least two classes: {found or 'none given'}"
        )
    return shared


def _class_name(value: Any) -> Any:
    """Returns the class name of an int, bool, float or NumPy scalar; NaN and other values are returned unchanged."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, float)) and not is_missing(value) else value
