"""The recipe of the README, in a subprocess, on the demo corpus and encoder, with few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metatext.settings import Table

PROJECT = Path(__file__).resolve().parents[1]


def run_recipe(*options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "recipes/news_to_weibo.py", "--no-progress", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_recipe_trains_evaluates_and_uses_finished_learners_again(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    options = ["--output", str(output), "--meta-steps", "2", "--eval-episodes", "2", "--target", "weibo_topics"]
    options += ["--evaluate.shots", "1", "2", "--evaluate.draws", "2", "--evaluate.test-size", "40"]
    options += ["--evaluate.fine-tune-steps", "2", "--evaluate.joint-epochs", "0.2"]
    first = run_recipe(*options)
    assert first.returncode == 0, first.stderr[-2000:]
    table = json.loads((output / "weibo_topics.json").read_text(encoding="utf-8"))
    methods = [row["method"] for row in table["rows"] if row["shots"] == 1]
    assert methods == [
        "majority class",
        "TF-IDF + logistic regression",
        "frozen encoder + nearest centroid",
        "frozen encoder + logistic regression",
        "fine-tuning the pretrained encoder",
        "source classifier, no target label",
        "joint training, then fine-tuning",
        "first-order MAML",
        "full MAML",
    ]
    assert len(table["records"]) == 9 * 2 * 2 and all(0 <= r["accuracy"] <= 1 for r in table["records"])
    assert table["table"] in first.stdout and table["table"] in (output / "weibo_topics.md").read_text(encoding="utf-8")
    assert not list(output.glob(".*")), "the log of a finished evaluation was left behind"

    trained = (output / "full" / "model.safetensors").stat().st_mtime_ns
    again = run_recipe(*options, "--evaluate.methods", "majority", "maml")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (output / "full" / "model.safetensors").stat().st_mtime_ns == trained
    other = run_recipe(*options, "--inner-lr", "0.5")
    assert other.returncode == 2 and "holds a learner of other options" in other.stderr, other.stderr[-2000:]


def test_sources_on_the_hub_are_named_with_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("metatext.domains.Domain.from_hub", lambda *a, **k: seen.append((a, k)))
    Table(text="sentence").read("hub:clue/clue:tnews:validation")
    Table().read("hub:ag_news")
    options = {"label": "label", "clean": None}
    assert seen == [
        (("clue/clue", "tnews", "validation"), {"text": "sentence"} | options),
        (("ag_news", None, "train"), {"text": "text"} | options),
    ]
