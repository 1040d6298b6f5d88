"""The tables of docs/results.md are those of the raw results beside it."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENT = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
COMMANDS = [line for line in DOCUMENT.splitlines() if line.startswith("python benchmarks/tables.py ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_is_what_its_command_prints(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(path) if "*" in word else word
        for word in shlex.split(command)[1:]
        for path in (sorted(PROJECT.glob(word)) if "*" in word else [word])
    ]
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert "\n".join(rows) in DOCUMENT


def test_the_tables_have_their_commands() -> None:
    assert len(COMMANDS) >= 9
