"""Settings of input files and of episodes; each field is an option of the command line."""

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
    """Encoding of the files. By default the byte order mark decides, then UTF-8, then GB18030."""
    clean: tuple[str, ...] = ()
    """What to clean from the texts: weibo (everything), or any of mentions urls reposts topics emoticons fullwidth.
    By default nothing. Give it to train, adapt and evaluate alike; predict cleans as adapt did."""
    by: str | None = None
    """Column that splits each source file into domains, one per value. By default, each file is one domain.
    Commands without source files, such as adapt, refuse it."""


@dataclass(frozen=True)
class EpisodeSettings:
    """How the episodes of meta-training are drawn."""

    ways: int = 5
    """Classes per episode (at most this many with --varied)."""
    shots: int = 5
    """Support texts per class, for the inner loop (at most this many with --varied)."""
    queries: int = 15
    """Query texts per class, for the loss whose gradient updates the initialisation."""
    varied: bool = False
    """Draw the size of each episode at random: 2 to --ways classes, and 1 to --shots support texts per class.
    Sources with few classes can then be mixed with sources that have many."""
    temperature: float | None = None
    """Temperature T of drawing a source domain: its probability is proportional to rows^(1/T).
    With T = 1, it is proportional to the number of rows. By default all domains are equally likely."""
    hard: float = 0.0
    """Share of hard episodes, 0 to 1.
    The classes of a hard episode are one random class and those whose texts are most similar to it in wording."""
    seed: int = 0
    """Seed of all random choices."""
    valid_fraction: float = 0.2
    """Share of the source classes to hold out for validation and early stopping. 0: no validation."""
    valid_classes: tuple[str, ...] = ()
    """Class names to hold out for validation instead of a random share."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        if not 0 <= self.hard <= 1:
            raise InputError(f"hard must be from 0 to 1, got {self.hard}")
        if not 0 <= self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be from 0 to below 1, got {self.valid_fraction}")
