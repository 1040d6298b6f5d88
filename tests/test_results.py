"""The tables of docs/results.md are those of the raw results beside it."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "docs" / "results"
DOCUMENTS = [*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md", *(PROJECT / "recipes").rglob("*.py")]
DOCUMENT = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
COMMANDS = [line for line in DOCUMENT.splitlines() if line.startswith("python benchmarks/results_table.py ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_is_what_its_command_prints(command: str) -> None:
    words = [sys.executable, *shlex.split(command)[1:]]
    printed = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert "\n".join(rows) in DOCUMENT


def test_the_tables_have_their_commands() -> None:
    assert len(COMMANDS) >= 15


def test_every_raw_result_is_named_in_a_document() -> None:
    named = set(re.findall(r"[\w*/.-]+\.json(?:\.gz)?", "\n".join(p.read_text(encoding="utf-8") for p in DOCUMENTS)))
    patterns = {Path(name).name for name in named}
    stale = [p.name for p in RESULTS.iterdir() if p.is_file() and not any(fnmatch(p.name, one) for one in patterns)]
    assert not stale


def test_raw_results_stay_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 3.4e6  # a fifth of 17 MB


def record(method: str, draw: int, accuracy: float) -> dict[str, Any]:
    figures = {"test_rows": 4, "macro_f1": accuracy, "calibration_error": None, "fit_seconds": 0.5}
    return {"method": method, "weights": None, "shots": 1, "draw": draw, "accuracy": accuracy} | figures


def test_a_compact_result_holds_the_figures_of_the_whole(tmp_path: Path) -> None:
    whole = {
        **{"target": "t", "target_rows": 8, "classes": ["a", "b"], "encoder": "e", "sources": ["s"]},
        **{"official_supports": 0, "machine": "m", "versions": {"torch": "2"}, "draws_sha256": {"1": "0f"}},
        "settings": {"draws": 2, "test_size": 4},
        "learners": {"MAML": {"inner_steps": 5}},
        "records": [record("MAML", 0, 0.75), record("MAML", 1, 0.5), record("tfidf", 0, 0.25), record("tfidf", 1, 0.5)],
        "table": "printed",
    }
    (tmp_path / "whole.json").write_text(json.dumps(whole), encoding="utf-8")
    compact = tmp_path / "compact.json.gz"
    script = str(PROJECT / "benchmarks" / "compact_results.py")
    subprocess.run([sys.executable, script, str(tmp_path / "whole.json"), str(compact)], check=True, timeout=120)
    found = json.loads(gzip.decompress(compact.read_bytes()))
    assert found["settings"] == {"draws": 2, "test_size": 4} and found["learners"] == {"MAML": {}}
    assert "table" not in found
    table = [sys.executable, str(PROJECT / "benchmarks" / "results_table.py"), "--shots", "1", "--"]
    printed = [
        subprocess.run([*table, str(path)], capture_output=True, text=True, check=True, timeout=120).stdout
        for path in (tmp_path / "whole.json", compact)
    ]
    assert printed[0] == printed[1]
    assert "| **MAML, the default** | 62.5 ± 158.8 / 62.5 | 0.5 |" in printed[0]  # t(1) * sd / sqrt(2) = 12.706 * 12.5
    assert "MAML - tfidf: +25.0 ± 317.7 (1)" in printed[0]
