"""The table, the tested differences, the classes and the figure, from records with known values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metatext import InputError
from metatext.evaluation.plot import plot_accuracy
from metatext.evaluation.report import (
    UNLABELLED,
    class_scores,
    class_tables,
    compare,
    differences,
    summarise,
    summary_table,
)
from metatext.hub.markdown import markdown_table


def record(method: str, shots: int, draw: int, accuracy: float, macro_f1: float, seconds: float = 0.0) -> Any:
    return {
        "method": method, "weights": None, "shots": shots, "draw": draw, "test_rows": 8, "accuracy": accuracy,
        "macro_f1": macro_f1, "fit_seconds": seconds, "calibration_error": None, "confusion": {"a": {"a": 8}},
    }  # fmt: skip


RECORDS = [
    record("A", 1, 0, 0.5, 0.4, 1.0),
    record("A", 1, 1, 0.7, 0.6, 3.0),
    record("A", 5, 0, 0.8, 0.8, 0.25),
    record("A", 5, 1, 0.8, 0.8, 0.25),
    record("B", 1, 1, 0.6, 0.5),
    record("B", 1, 0, 0.2, 0.1),
    record("B", 5, 0, 0.25, 0.25),
    record("B", 5, 1, 0.25, 0.25),
]


def over_draws(method: str, *accuracies: float) -> list[Any]:
    return [record(method, 5, draw, accuracy, accuracy) for draw, accuracy in enumerate(accuracies)]


def test_summary_has_a_row_a_method_and_shots() -> None:
    rows = summarise(RECORDS)
    assert [(row["method"], row["shots"], row["draws"]) for row in rows] == [
        ("A", 1, 2), ("A", 5, 2), ("B", 1, 2), ("B", 5, 2),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == pytest.approx(0.6) and rows[0]["macro_f1"] == pytest.approx(0.5)
    assert rows[0]["accuracy_ci95"] == pytest.approx(1.2706205)  # 12.706205 * 0.1
    assert rows[0]["fit_seconds"] == 2.0 and rows[1]["accuracy_ci95"] == 0.0


def test_summary_adds_confusion_counts_and_averages_the_calibration_error() -> None:
    first = record("A", 1, 0, 0.5, 0.5) | {
        "confusion": {"a": {"a": 2, "b": 1}, "b": {"b": 3}},
        "calibration_error": 0.2,
    }
    second = record("A", 1, 1, 0.5, 0.5) | {"confusion": {"a": {"b": 4}, "c": {"a": 1}}, "calibration_error": 0.1}
    (row,) = summarise([first, second])
    assert row["confusion"] == {"a": {"a": 2, "b": 5}, "b": {"b": 3}, "c": {"a": 1}}
    assert row["calibration_error"] == pytest.approx(0.15)
    assert first["confusion"] == {"a": {"a": 2, "b": 1}, "b": {"b": 3}}
    assert summarise(RECORDS)[0]["calibration_error"] is None


def test_table_is_markdown() -> None:
    assert summary_table(summarise(RECORDS)).splitlines() == [
        "| method | 1 shot: accuracy / macro-F1 | 5 shots: accuracy / macro-F1 | s per fit |",
        "|---|---|---|---|",
        "| A | 60.0 ± 127.1 / 50.0 ± 127.1 | 80.0 ± 0.0 / 80.0 ± 0.0 | 2-0.25 |",
        "| B | 40.0 ± 254.1 / 30.0 ± 254.1 | 25.0 ± 0.0 / 25.0 ± 0.0 | 0 |",
    ]
    assert markdown_table(["a|b"], [["c\nd"]]) == "| a\\|b |\n|---|\n| c d |"


def test_a_cell_is_empty_where_a_method_has_no_result() -> None:
    rows = summarise([*RECORDS, record("names", 0, 0, 0.5, 0.5), record("names", 0, 1, 0.5, 0.5)])
    assert summary_table(rows).splitlines()[2:] == [
        "| A |  | 60.0 ± 127.1 / 50.0 ± 127.1 | 80.0 ± 0.0 / 80.0 ± 0.0 | 2-0.25 |",
        "| B |  | 40.0 ± 254.1 / 30.0 ± 254.1 | 25.0 ± 0.0 / 25.0 ± 0.0 | 0 |",
        "| names | 50.0 ± 0.0 / 50.0 ± 0.0 |  |  | 0 |",
    ]
    assert summary_table(rows).startswith("| method | 0 shots: accuracy")
    assert class_tables(rows, ["names"]).startswith("names, 0 shots, all 2 draws together")


def test_learners_are_compared_with_every_other_row_by_draw() -> None:
    found = compare(RECORDS, ["A"])
    assert [(c["method"], c["other"], c["shots"]) for c in found] == [("A", "B", 1), ("A", "B", 5)]
    assert found[0]["difference"] == pytest.approx(0.2) and found[0]["ci95"] == pytest.approx(1.2706205)  # 0.3 and 0.1
    assert found[0]["p_value"] == 0.5 and found[1]["difference"] == pytest.approx(0.55)
    both = compare(RECORDS, ["A", "B"])
    assert [(c["method"], c["other"]) for c in both[:2]] == [("A", "B"), ("B", "A")]
    assert both[1]["difference"] == pytest.approx(-0.2)


def test_sentences_say_beats_only_where_it_is_tested() -> None:
    records = [
        *over_draws("tuning", 0.50, 0.51, 0.52, 0.53, 0.54, 0.55),
        *over_draws("weak", 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
        *over_draws("strong", 0.60, 0.61, 0.62, 0.63, 0.64, 0.65),
        *over_draws("learner", 0.59, 0.60, 0.63, 0.62, 0.65, 0.66),
        *over_draws("other learner", 0.40, 0.41, 0.42, 0.43, 0.44, 0.45),
    ]
    learners = ["learner", "other learner"]
    rows, comparisons = summarise(records), compare(records, learners)
    assert len(comparisons) == 2 * 4
    assert differences(rows, comparisons, learners, "tuning") == [
        "5 shots: learner beats tuning, +10.0 ± 1.1 points, p = 0.031",  # 2 / 2^6; 2.5706 * 1.0954 / sqrt(6) = 1.150
        "5 shots: learner does not differ significantly from strong (the strongest baseline), "
        "+0.0 ± 1.1 points, p = 1.000",
        "5 shots: other learner is behind tuning, -10.0 ± 0.0 points, p = 0.031",
        "5 shots: other learner is behind strong (the strongest baseline), -20.0 ± 0.0 points, p = 0.031",
    ]
    alone = over_draws("learner", 0.5, 0.6) + over_draws("learner, unnamed", 0.9, 0.9)  # a part of it is no baseline
    assert differences(summarise(alone), compare(alone, ["learner"]), ["learner"], "tuning") == []
    few = over_draws("learner", 0.5, 0.6) + over_draws("tuning", 0.3, 0.4)
    assert differences(summarise(few), compare(few, ["learner"]), ["learner"], "tuning") == [
        "5 shots: learner cannot be tested with 2 draws (6 are needed, --draws) against tuning "
        "(the strongest baseline), +20.0 ± 0.0 points"
    ]


def test_class_scores_are_those_of_a_known_matrix() -> None:
    found = class_scores({"a": {"a": 6, "b": 2}, "b": {"a": 3, "b": 1, "c": 0}, "c": {"b": 2}})
    assert {name: scores["support"] for name, scores in found.items()} == {"a": 8, "b": 4, "c": 2}
    assert found["a"]["precision"] == pytest.approx(6 / 9) and found["a"]["recall"] == pytest.approx(6 / 8)
    assert found["a"]["f1-score"] == pytest.approx(12 / 17)
    assert found["b"]["precision"] == pytest.approx(1 / 5) and found["b"]["recall"] == pytest.approx(1 / 4)
    assert (found["c"]["precision"], found["c"]["recall"]) == (0, 0)


def test_classes_are_told_for_the_learners_at_the_most_shots() -> None:
    matrix = {"a": {"a": 6, "b": 2}, "b": {"a": 3, "b": 1}}
    rows = summarise([r | {"confusion": matrix} for r in RECORDS])
    assert class_tables(rows, ["A"]).splitlines() == [
        "A, 5 shots, all 2 draws together, in %:",
        "",
        "| class | precision | recall | F1 | texts judged |",
        "|---|---|---|---|---|",
        "| a | 66.7 | 75.0 | 70.6 | 16 |",
        "| b | 33.3 | 25.0 | 28.6 | 8 |",
    ]


def test_the_figure_is_the_same_file_each_time_and_names_the_methods(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        plot_accuracy(tmp_path / name, summarise(RECORDS))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert "accuracy, %" in drawn and "<!-- A -->" in drawn and "<!-- B -->" in drawn


def test_a_figure_without_matplotlib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'metatext\[plot\]'"):
        plot_accuracy(tmp_path / "one.svg", summarise(RECORDS))


def test_a_learner_is_compared_with_itself_given_unlabelled_texts() -> None:
    scores = {"MAML": 0.5, f"MAML{UNLABELLED}": 0.6, "MAML, without class names": 0.4, "centroid": 0.3}
    records = [record(name, 1, draw, score + draw / 1000, score) for name, score in scores.items() for draw in range(8)]
    found = differences(summarise(records), compare(records, ["MAML"]), ["MAML"], "fine-tuning")
    assert sorted(sentence.partition(" points")[0] for sentence in found) == [
        "1 shot: MAML beats centroid (the strongest baseline), +20.0 ± 0.0",
        "1 shot: MAML is behind MAML, unlabelled texts too, -10.0 ± 0.0",
    ]
