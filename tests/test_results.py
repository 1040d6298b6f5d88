"""The tables of docs/results.md are those of the raw results beside it."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "docs" / "results"
DOCUMENTS = [*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md"]
DOCUMENT = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
COMMANDS = [line for line in DOCUMENT.splitlines() if line.startswith("python benchmarks/results_table.py ")]
NAMED = set(re.findall(r"[\w*/-]+\.json(?:\.gz)?\b", "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)))

Script = Callable[..., str]
"""Runs a script of benchmarks/ with arguments, and gives what it prints."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Scripts run in this process: importing the package anew for each takes seconds."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))

    def run(name: str, *words: str | Path) -> str:
        path = f"benchmarks/{name}.py"
        monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_is_what_its_command_prints(command: str, script: Script) -> None:
    rows = [line for line in script("results_table", *shlex.split(command)[2:]).splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert f"{command}\n```\n\n" + "\n".join(rows) + "\n\n" in DOCUMENT


def test_the_tables_have_their_commands() -> None:
    assert len(COMMANDS) >= 15


def test_every_raw_result_is_named_in_a_document() -> None:
    patterns = {Path(name).name for name in NAMED}
    stale = [p.name for p in RESULTS.iterdir() if p.is_file() and not any(fnmatch(p.name, one) for one in patterns)]
    assert not stale


def test_every_compact_result_that_a_document_names_is_there() -> None:
    names = [path.name for path in RESULTS.iterdir()]
    missing = [name for name in NAMED if name.endswith(".gz") and not any(fnmatch(n, Path(name).name) for n in names)]
    assert not missing


def test_raw_results_stay_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 1.5e6


def whole_result(methods: Sequence[str], machine: str) -> dict[str, Any]:
    """A result as `metatext evaluate` writes it: two draws of four texts for each method, one better than the next."""
    return {
        **{"target": "t", "target_rows": 8, "classes": ["a", "b"], "encoder": "e", "sources": ["s"]},
        **{"official_supports": 0, "machine": machine, "versions": {"torch": "2"}, "draws_sha256": {"1": "0f"}},
        "settings": {"draws": 2, "test_size": 4, "joint": "/folder/of/one/machine/joint", "test": None},
        "learners": {method: {"inner_steps": 5} for method in methods if method == "MAML"},
        "records": [
            {"method": method, "weights": None, "shots": 1, "draw": draw, "test_rows": 4, "accuracy": accuracy}
            | {"macro_f1": accuracy, "calibration_error": None, "fit_seconds": 0.5}
            for method in methods
            for draw, accuracy in enumerate([0.75, 0.5] if method == "MAML" else [0.25, 0.5])
        ],
        "table": "printed",
    }


def test_a_compact_result_holds_the_figures_and_the_runs_of_the_whole(tmp_path: Path, script: Script) -> None:
    wholes = [tmp_path / "learner.json", tmp_path / "baselines.json"]
    wholes[0].write_text(json.dumps(whole_result(["MAML"], "one")), encoding="utf-8")
    wholes[1].write_text(json.dumps(whole_result(["tfidf", "frozen"], "another")), encoding="utf-8")
    compact, again = tmp_path / "compact.json.gz", tmp_path / "again.json.gz"
    script("compact_results", *wholes, compact)
    script("compact_results", compact, again)
    assert again.read_bytes() == compact.read_bytes()
    found = json.loads(gzip.decompress(compact.read_bytes()))
    assert "table" not in found
    assert found["learners"] == {"MAML": {"inner_steps": 5}}
    machines = {block["method"]: found["runs"][block["run"]]["machine"] for block in found["figures"]}
    assert machines == {"MAML": "one", "tfidf": "another", "frozen": "another"}
    assert found["runs"][0]["settings"] == {"draws": 2, "test_size": 4, "joint": "joint", "test": None}
    printed = script("results_table", compact, "--shots", "1")
    assert printed == script("results_table", *wholes, "--shots", "1")
    assert "| **MAML, the default** | 62.5 ± 158.8 / 62.5 | 0.5 |" in printed  # t(1) * sd / sqrt(2) = 12.706 * 12.5
    assert "MAML - tfidf: +25.0 ± 317.7 (1)" in printed
