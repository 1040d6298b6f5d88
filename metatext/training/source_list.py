"""Writes and reads `sources.json`, the list of source files of a run. An evaluation can so read them again."""

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

_FILE = "sources.json"


def write_source_list(run: Path, paths: Sequence[str], table: Table) -> None:
    """Writes the list of source files, and how they were read."""
    write_json(run / _FILE, [{"path": absolute(path)} | dataclasses.asdict(table) for path in paths])


def read_listed_sources(run: str) -> list[Domain]:
    """Reads the source domains that a run was trained on.

    Raises:
        InputError: the folder holds a classifier, or has no list of sources.
        FileNotFoundError: a source file is gone.
    """
    if read_metadata(Path(run)).get("kind") == "classifier":
        raise InputError(f"{run} holds a classifier, but what is needed is a learner, which metatext train writes")
    path = Path(run) / _FILE
    if not path.exists():
        raise InputError(
            f"{run} does not say what it was trained on: name the files, --source a.jsonl b.jsonl, or take --methods "
            "without source and joint"
        )
    domains = list[Domain]()
    for entry in json.loads(path.read_text(encoding="utf-8")):
        source = entry.pop("path")
        domains += read_domains([source], Table(**entry | {"clean": tuple(entry["clean"])}))
    return domains
