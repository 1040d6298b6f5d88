"""Evaluation without labels: draws of 0 shots, and reports with rows that have no result there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TOPICS, make_domain

from metatext import FewShotClassifier, InputError
from metatext.evaluation.evaluate import evaluate
from metatext.evaluation.methods import METHODS
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import make_draws, official_draws

GIVEN = tuple(f"{label}={words.split()[0]}" for label, words in TOPICS.items())


@pytest.mark.parametrize("ways", [None, 3])
def test_a_draw_of_0_shots_has_the_classes_and_test_texts_of_the_others(ways: int | None) -> None:
    draws = make_draws(make_domain(), [2, 0], 3, ways=ways)
    assert [(draw.number, draw.shots, len(draw.support)) for draw in draws] == [
        (number, shots, shots * (ways or 6)) for number in range(3) for shots in (0, 2)
    ]
    for none, two in zip(draws[::2], draws[1::2], strict=True):
        assert none.support == [] and none.test == two.test
        assert none.classes == two.classes == sorted({label for _, label in two.support})
    assert draws[1::2] == make_draws(make_domain(), [2], 3, ways=ways)  # 0 shots change no other draw
    assert all(draw.support == [] and draw.test for draw in make_draws(make_domain(), [0], 2))


def test_official_draws_have_the_classes_of_their_support() -> None:
    supports = [make_domain(seed, 2) for seed in (1, 2)]
    assert [draw.classes for draw in official_draws(supports, make_domain(3, 3))] == 2 * [sorted(TOPICS)]


def test_at_0_shots_there_are_the_rows_that_need_no_label(learner_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    methods = ("majority", "names", "frozen", "source", "joint", "maml")
    settings = EvaluateSettings(
        shots=(0, 1), draws=2, methods=methods, class_names=GIVEN, test_size=30, fine_tune_steps=1, plot=True
    )
    output = tmp_path / "table.json"
    result = evaluate([learner_folder], make_domain(2), [make_domain(0)], settings, None, output)
    rows = {(row["method"], row["shots"]) for row in result["rows"]}
    assert {(METHODS["names"], 0), (METHODS["source"], 0), ("first-order MAML", 0)} <= rows
    assert not {(METHODS[key], 0) for key in ("majority", "frozen", "joint")} & rows
    assert {method for method, shots in rows if shots == 1} == {"first-order MAML", *map(METHODS.get, methods[:-1])}
    head, _, *lines = result["table"].splitlines()
    assert head.startswith("| method | 0 shots: accuracy / macro-F1 | 1 shot: accuracy / macro-F1 |")
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1] for line in lines}
    assert cells[METHODS["frozen"]] == "" and "±" in cells[METHODS["names"]]
    report = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "first-order MAML, 1 shot, all 2 draws together" in report
    assert "<svg" in output.with_suffix(".svg").read_text(encoding="utf-8")
    assert json.loads(output.read_text(encoding="utf-8"))["draws_sha256"].keys() == {"0", "1"}
    alone = evaluate([learner_folder], make_domain(2), [], EvaluateSettings(shots=(1,), draws=2, methods=("majority",)))
    both = evaluate(
        [learner_folder], make_domain(2), [], EvaluateSettings(shots=(0, 1), draws=2, methods=("majority",))
    )
    assert alone["draws_sha256"]["1"] == both["draws_sha256"]["1"]


def test_0_shots_alone_need_a_row_that_needs_no_label(learner_folder: str) -> None:
    with pytest.raises(InputError, match="no method is left to evaluate without labels: name others with --methods"):
        evaluate(
            [learner_folder], make_domain(2), [], EvaluateSettings(shots=(0,), draws=2, methods=("majority", "tfidf"))
        )


@pytest.mark.parametrize(
    ("names", "ways", "zero_shots"),
    [
        (GIVEN, None, True),
        ((*GIVEN[:-1], GIVEN[-1].partition("=")[0] + "="), None, False),  # a class without a name
        ((*GIVEN[:-1], GIVEN[-1].partition("=")[0] + "=非" + GIVEN[0].partition("=")[2]), None, False),  # a negation
        ((*GIVEN[:-1], GIVEN[-1].partition("=")[0] + "=" + GIVEN[0].partition("=")[2] + "场"), 2, False),  # a part
        ((*GIVEN[:-1], GIVEN[-1].partition("=")[0] + "=" + GIVEN[0].partition("=")[2] + "场"), 3, True),
    ],
)
def test_a_learner_is_judged_at_0_shots_if_it_knows_every_class(
    learner_folder: str, names: tuple[str, ...], ways: int | None, zero_shots: bool
) -> None:
    settings = EvaluateSettings(shots=(0, 1), draws=2, methods=("maml",), class_names=names, test_size=30, ways=ways)
    result = evaluate([learner_folder], make_domain(2), [], settings)
    assert ({row["shots"] for row in result["rows"]} == {0, 1}) is zero_shots
    if names == GIVEN:
        domain, classes = make_domain(2), sorted(TOPICS)
        given = dict(pair.split("=") for pair in names)
        (draw, *_) = make_draws(domain, [0], 2, test_size=30)
        classifier = FewShotClassifier(learner_folder, class_names=given).fit([], [])
        right = classifier.predict([text for text, _ in draw.test]) == [label for _, label in draw.test]
        assert classifier.classes_.tolist() == classes
        (record,) = [r for r in result["records"] if (r["shots"], r["draw"]) == (0, 0)]
        assert record["accuracy"] == pytest.approx(right.mean())
