"""`sources.json`: which files a run was trained on, so that an evaluation can read them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from metatext.data.domains import Domain
from metatext.data.settings import Table
from metatext.data.user_files import read_domains
from metatext.errors import InputError
from metatext.files import absolute, write_json
from metatext.hub.model_folder import read_metadata

_NOTE = "sources.json"


def write_source_note(run: Path, paths: Sequence[str], table: Table) -> None:
    """Notes the source files of a run, and how they were read."""
    write_json(run / _NOTE, [{"path": absolute(path)} | dataclasses.asdict(table) for path in paths])


def read_noted_sources(run: str) -> list[Domain]:
    """The source domains that a run was trained on.

    Raises:
        InputError: the folder holds a classifier, or has no note.
        FileNotFoundError: a source file is gone.
    """
    if read_metadata(Path(run)).get("kind") == "classifier":
        raise InputError(f"{run} holds a classifier, but what is needed is a learner, which metatext train writes")
    note = Path(run) / _NOTE
    if not note.exists():
        raise InputError(f"{run} does not say what it was trained on: name the files, --source a.jsonl b.jsonl")
    domains = list[Domain]()
    for entry in json.loads(note.read_text(encoding="utf-8")):
        place = entry.pop("path")
        domains += read_domains([place], Table(**entry | {"clean": tuple(entry["clean"])}))
    return domains
