"""The tables of the documents are those of the raw results in docs/results."""

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

import numpy as np
import pytest

from metatext import InputError
from metatext.evaluation.statistics import Influence, paired_comparison, two_way_interval

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "docs" / "results"
DOCUMENTS = [*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md"]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
ALL = "\n".join(TEXTS.values())
COMMANDS = [
    (page, command)
    for page, text in TEXTS.items()
    for command in re.findall(
        r"^python benchmarks/results_(?:table|overview)\.py .*(?:(?<=\\)\n.*)*", text, re.MULTILINE
    )
]
"""The page and the text of each command that prints a table, with its continuation lines."""
NAMED = set(re.findall(r"[\w*/-]+\.json(?:\.gz)?\b", ALL))

Script = Callable[..., str]
"""Runs a script of benchmarks/ with arguments, and gives what it prints."""

# A row without a command: its first words, the number of labels of its first difference, and the results it compares
DIFFERENCES = [
    ("| 10 of 29 other topics | 0 | 0 |", 5, "with_fine_tuning_weibo_hashtags", "no_fine_tuning_weibo_hashtags"),
    ("| 6 emotions | 0 | 0 |", 5, "with_fine_tuning_weibo_emotion", "no_fine_tuning_weibo_emotion"),
    ("| 7 emotions (`weibo_covid7`) | 0 | 0 |", 5, "with_fine_tuning_weibo_covid7", "no_fine_tuning_weibo_covid7"),
    ("| tweets, five subjects | 0 | 0 | 0 |", 10, "with_fine_tuning_tweets_topic5", "no_fine_tuning_tweets_topic5"),
    ("| tweets, four emotions | 0 | 0 | 0 |", 10, "with_fine_tuning_tweets_emotion", "no_fine_tuning_tweets_emotion"),
    ("| 38 banking intents |", 1, "banking77_without_hard", "no_fine_tuning_banking77"),
    ("| Weibo polarity, after reviews |", 1, "unlabelled_weibo_senti, unlabelled", "unlabelled_weibo_senti"),
    ("| tweets, five subjects (learner of headlines) |", 1, "tweets_topic5, unlabelled", "tweets_topic5"),
    ("| tweets, four emotions (learner of headlines) |", 1, "tweets_emotion, unlabelled", "tweets_emotion"),
    (
        "| Weibo, 6 emotions (learner of news) |",
        1,
        "unlabelled_weibo_emotion, unlabelled",
        "with_fine_tuning_weibo_emotion",
    ),
    ("| `--hard 0.5`, 38 new intents |", 1, "hard_banking77", "banking77_without_hard"),
    (
        "| `--adversarial 0.3`, polarity of Weibo posts |",
        1,
        "adversarial_weibo_senti",
        "unlabelled_weibo_senti",
    ),
]


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


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_table_is_what_its_command_prints(page: str, command: str, script: Script) -> None:
    _, path, *words = shlex.split(command.replace("\\\n", " "))
    rows = [line for line in script(Path(path).stem, *words).splitlines() if line.startswith("|")]
    assert len(rows) > 2
    assert f"{command}\n```\n\n" + "\n".join(rows) + "\n\n" in TEXTS[page]


def test_the_tables_have_their_commands() -> None:
    assert len(COMMANDS) >= 30
    assert len([page for page, _ in COMMANDS if page == "results.md"]) >= 6


def test_the_first_page_is_short() -> None:
    assert len(TEXTS["results.md"].splitlines()) <= 200


def accuracies(name: str) -> dict[int, dict[int, float]]:
    """Accuracy by number of labels and draw, of the only learner of a result, or of its row with unlabelled texts."""
    result, _, unlabelled = name.partition(", ")
    whole = json.loads(gzip.decompress((RESULTS / f"{result}.json.gz").read_bytes()))
    (learner,) = whole["learners"]
    method = f"{learner}, unlabelled texts too" if unlabelled else learner
    found: dict[int, dict[int, float]] = {}
    for block in whole["figures"]:
        for shots, draw, _, accuracy, *_ in block["draws"] if block["method"] == method else []:
            found.setdefault(shots, {})[draw] = accuracy
    return found


def differences(mine: dict[int, dict[int, float]], theirs: dict[int, dict[int, float]], first: int) -> list[str]:
    """The paired differences at each number of labels from the first on, as the document has them."""
    found = []
    for shots in sorted(count for count in mine.keys() & theirs.keys() if count >= first):
        draws = sorted(mine[shots].keys() & theirs[shots].keys())
        pair = paired_comparison([mine[shots][d] for d in draws], [theirs[shots][d] for d in draws])
        found.append(f"{100 * pair.difference:+.1f} ± {100 * pair.ci95:.1f}")
    return found


@pytest.mark.parametrize(("start", "first", "mine", "theirs"), DIFFERENCES)
def test_a_row_without_a_command_is_that_of_its_raw_results(start: str, first: int, mine: str, theirs: str) -> None:
    assert ALL.count(start) == 1
    expected = differences(accuracies(mine), accuracies(theirs), first)
    assert len(expected) >= 2
    assert re.findall(r"[+-]\d+\.\d ± \d+\.\d", ALL[ALL.index(start) :])[: len(expected)] == expected


def test_every_raw_result_is_named_in_a_document() -> None:
    patterns = {Path(name).name for name in NAMED}
    stale = [
        p.name
        for p in [*RESULTS.iterdir(), *(RESULTS / "package").iterdir()]
        if p.is_file() and not any(fnmatch(p.name, one) for one in patterns)
    ]
    assert not stale


def test_every_compact_result_that_a_document_names_is_there() -> None:
    names = [path.name for path in RESULTS.rglob("*")]
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


def test_a_compact_result_keeps_the_answers_to_each_test_text(tmp_path: Path, script: Script) -> None:
    """Interval by hand: draws 0.75 and 0.5 of the same texts, the first of which is wrong in the second draw alone."""
    whole = whole_result(["MAML"], "one") | {"test_texts": [[0, 1, 2, 3], [0, 1, 2, 3]]}
    for record, correct in zip(whole["records"], ("e0", "60"), strict=True):  # texts 0 to 2; texts 1 and 2
        record["correct"] = correct
    path, compact, again = tmp_path / "whole.json", tmp_path / "compact.json.gz", tmp_path / "again.json.gz"
    path.write_text(json.dumps(whole), encoding="utf-8")
    script("compact_results", path, compact)
    script("compact_results", compact, again)
    assert again.read_bytes() == compact.read_bytes()
    influence = Influence(np.array([1, 1, 1, -3, -2, 2, 2, -2]) / 16, np.arange(8) % 4)
    mean, half_width = two_way_interval(np.array([0.75, 0.5]), influence)
    printed = script("results_table", compact, "--shots", "1")
    assert f"| {100 * mean:.1f} ± {100 * half_width:.1f} / 62.5 |" in printed
    assert f"{100 * half_width:.1f}" != "158.8"  # Student's t over draws
    assert printed == script("results_table", path, "--shots", "1")
    path.write_text(json.dumps(whole | {"test_texts": [[0, 1, 2, 3], [4, 5, 6, 7]]}), encoding="utf-8")
    with pytest.raises(InputError, match="the files were judged on different test texts"):
        script("results_table", compact, path)


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


def test_an_overview_sets_the_default_beside_the_strongest_baseline(tmp_path: Path, script: Script) -> None:
    learners, frozen = ["MAML", "no meta-training"], "frozen encoder + logistic regression"
    figures = [("MAML", 1, 0.75), ("no meta-training", 1, 0.5), (frozen, 1, 0.25), (frozen, 5, 0.625)]
    result = whole_result(learners, "one") | {"learners": {name: {} for name in learners}}
    (record, *_) = result["records"]
    result["records"] = [
        record | {"method": method, "shots": shots, "draw": draw, "accuracy": accuracy}
        for method, shots, accuracy in figures
        for draw in range(6)  # the smallest p-value of six draws is 2 / 2^6 = 0.031, of five 0.0625
    ]
    file = tmp_path / "some_target.json"
    file.write_text(json.dumps(result), encoding="utf-8")

    def last(*options: str) -> str:
        return script("results_overview", file, "--shots", "0", "1", "5", *options).splitlines()[-1]

    assert last() == (
        "| `some_target` | 2 |  |  | **75.0 ± 0.0** | 50.0 ± 0.0 no meta-training |  | 62.5 ± 0.0 frozen |"
    )
    assert last("--learner", "no meta-training") == (
        "| `some_target` | 2 |  |  | **50.0 ± 0.0** | 25.0 ± 0.0 frozen |  | 62.5 ± 0.0 frozen |"
    )
    assert last("--against", "frozen") == "| `some_target` |  | +50.0 ± 0.0 |  |"
    rows = script("results_overview", file, "--shots", "0", "1", "5", "--means").splitlines()[2:]
    assert rows == [f"| {frozen} |  | 25.0 / 75.0 (1) |  |", "| no meta-training |  | 50.0 / 75.0 (1) |  |"]
    compact = script("results_table", file, "--shots", "0", "1", "5", "--accuracy").splitlines()
    assert f"| {frozen} |  | 25.0 ± 0.0 | 62.5 ± 0.0 |" in compact
    assert "| **MAML, the default** |  | 75.0 ± 0.0 |  |" in compact
