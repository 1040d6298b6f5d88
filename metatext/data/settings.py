"""Settings of files and of episodes: each is a field here and an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from metatext.errors import InputError


@dataclass(frozen=True)
class Table:
    """How to read the user's files (csv, tsv, jsonl, json, parquet)."""

    text: str = "text"
    """Column that holds the texts."""
    label: str = "label"
    """Column that holds the labels."""
    encoding: str | None = None
    """Encoding of the files; by default UTF-8 or GB18030, whichever fits."""
    clean: tuple[str, ...] = ()
    """What to clean from the texts: weibo (everything), or any of mentions urls reposts topics emoticons fullwidth."""
    by: str | None = None
    """Column that parts a source file into domains, one for each of its values."""


@dataclass(frozen=True)
class EpisodeSettings:
    """What the episodes of meta-training look like."""

    ways: int = 5
    """Classes per episode."""
    shots: int = 5
    """Support texts per class, which the inner loop sees."""
    queries: int = 15
    """Query texts per class, which the meta-gradient is taken of."""
    varied: bool = False
    """Let --ways and --shots be the most: episodes have 2 to so many classes, and 1 to so many support texts of each.
    Sources with few classes, such as polarity, can then join those with many."""
    temperature: float | None = None
    """T: a source is drawn with probability proportional to its rows to the power 1/T, 1 is by size; by default all are
    equally likely."""
    hard: float = 0.0
    """Share of the episodes whose classes are hard to tell apart: one at random, and those most like it in words."""
    seed: int = 0
    """Seed of everything random."""
    valid_fraction: float = 0.2
    """Share of the sources' classes held out for validation and early stopping; 0: no validation."""
    valid_classes: tuple[str, ...] = ()
    """Class names to hold out for validation instead of a random share."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        if not 0 <= self.hard <= 1:
            raise InputError(f"hard must be from 0 to 1, got {self.hard}")
        if not 0 <= self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be from 0 to below 1, got {self.valid_fraction}")
