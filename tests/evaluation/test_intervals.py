"""Intervals over draws and test texts, against simulations, resampling and closed forms."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from conftest import make_domain
from scipy import stats
from sklearn.metrics import f1_score

from metatext import Domain
from metatext.data.episodes import Examples
from metatext.evaluation.intervals import compare_accuracy, from_bits, macro_f1_influence, score_interval, to_bits
from metatext.evaluation.scoring import Answer, Method, run_methods
from metatext.evaluation.statistics import (
    Influence,
    confidence_interval,
    paired_comparison,
    two_way_comparison,
    two_way_interval,
    two_way_variance,
)
from metatext.evaluation.support_draws import make_draws, number_test_texts, official_draws


def influence_of(correct: np.ndarray, judged: np.ndarray | None = None) -> Influence:
    """Of texts on accuracy, from correct answers and whether a draw has a text, (draws, texts) both."""
    judged = np.ones(correct.shape, dtype=bool) if judged is None else judged
    counts = judged.sum(1, keepdims=True)
    values = (correct - (correct * judged).sum(1, keepdims=True) / counts) / counts
    return Influence(values[judged], np.nonzero(judged)[1])


def difference_of(mine: np.ndarray, theirs: np.ndarray, judged: np.ndarray | None = None) -> Influence:
    one, other = influence_of(mine, judged), influence_of(theirs, judged)
    return Influence(one.values - other.values, one.texts)


def answers(rng: np.random.Generator, draws: int, texts: int, of_draw: float, of_text: float) -> np.ndarray:
    """Correct answers (draws, texts) with random effects of draws and texts; about 60% are correct."""
    latent = rng.normal(0, of_draw, (draws, 1)) + rng.normal(0, of_text, (1, texts)) + rng.normal(size=(draws, texts))
    return np.asarray(latent > stats.norm.ppf(0.4) * np.sqrt(1 + of_draw**2 + of_text**2), dtype=float)


@pytest.mark.parametrize(("of_draw", "of_text"), [(0.2, 1.0), (0.02, 1.0), (0.3, 0.3)])
def test_intervals_cover_the_accuracy_of_the_population(of_draw: float, of_text: float) -> None:
    rng, covered, by_draws = np.random.default_rng(0), 0, 0
    for _ in range(600):
        correct = answers(rng, 10, 200, of_draw, of_text)
        mean, half_width = two_way_interval(correct.mean(1), influence_of(correct))
        covered += abs(mean - 0.6) <= half_width
        by_draws += abs(mean - 0.6) <= confidence_interval(correct.mean(1).tolist())[1]
    assert 0.92 <= covered / 600 <= 0.98
    if of_text == 1.0:
        assert by_draws / 600 < 0.9


def test_the_test_of_a_difference_keeps_its_level() -> None:
    """Two methods that are equally good in the population, and share the difficulty of texts in part."""
    rng, rejected = np.random.default_rng(1), 0
    for _ in range(600):
        shared = rng.normal(0, 1, (1, 200))
        own = rng.normal(0, 0.7, (2, 1, 200)) + rng.normal(0, 0.1, (2, 10, 1)) + rng.normal(size=(2, 10, 200))
        mine, theirs = (shared + own > 0).astype(float)
        found = two_way_comparison(mine.mean(1) - theirs.mean(1), difference_of(mine, theirs))
        assert (found.p_value < 0.05) == (abs(found.difference) > found.ci95)
        rejected += found.p_value < 0.05
    assert 0.02 <= rejected / 600 <= 0.08


def test_variance_is_that_of_the_pigeonhole_bootstrap_less_its_excess() -> None:
    rng = np.random.default_rng(2)
    draws, texts = 20, 150
    correct = answers(rng, draws, texts, 0.2, 0.4)
    of_draws = rng.multinomial(draws, np.full(draws, 1 / draws), 20_000)
    of_texts = rng.multinomial(texts, np.full(texts, 1 / texts), 20_000)
    resampled = np.einsum("bd,dt,bt->b", of_draws, correct, of_texts, optimize=True) / (draws * texts)
    centred = correct - correct.mean(0) - correct.mean(1, keepdims=True) + correct.mean()
    single = np.square(centred).sum() / ((draws - 1) * (texts - 1)) / (draws * texts)  # variance of single answers
    variance, _ = two_way_variance(correct.mean(1), influence_of(correct))
    assert variance == pytest.approx(resampled.var() - 2 * single, rel=0.06)  # the bootstrap lacks (draws - 1) / draws
    assert single > 0.15 * variance


def test_other_texts_in_each_draw_give_students_t_over_draws() -> None:
    rng = np.random.default_rng(3)
    correct = answers(rng, 6, 40, 0.5, 0.0)
    influence = influence_of(correct)._replace(texts=np.arange(240))
    mean, half_width = confidence_interval(correct.mean(1).tolist())
    found = two_way_interval(correct.mean(1), influence)
    assert found[0] == pytest.approx(mean) and found[1] == pytest.approx(half_width, rel=0.05)


def test_equal_answers_in_all_draws_give_students_t_over_texts() -> None:
    correct = np.tile([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], (5, 1))
    expected = confidence_interval(correct[0].tolist())
    assert two_way_interval(correct.mean(1), influence_of(correct)) == (
        pytest.approx(expected[0]),
        pytest.approx(expected[1]),
    )
    no_influence = Influence(np.zeros(35), np.arange(35) % 7)
    assert two_way_comparison(np.zeros(5), no_influence) == (0.0, 0.0, 1.0)
    assert two_way_comparison(np.ones(5), no_influence) == (1.0, 0.0, 0.0)


def test_influence_on_macro_f1_is_its_derivative_by_the_weight_of_a_text() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 40)
    predicted = np.where(rng.random(40) < 0.6, truth, rng.integers(0, 5, 40))  # also classes that no text has

    def macro_f1(weights: np.ndarray) -> float:
        return float(f1_score(truth, predicted, labels=[0, 1, 2], average="macro", sample_weight=weights))

    found = macro_f1_influence(truth, predicted)
    assert abs(found.sum()) < 1e-12
    for text in range(40):
        step = 1e-5 * np.eye(40)[text]
        assert found[text] == pytest.approx((macro_f1(1 + step) - macro_f1(1 - step)) / 2e-5, abs=1e-8)


def test_bits_are_read_as_they_were_written() -> None:
    for size in (1, 8, 13, 500):
        bits = np.random.default_rng(size).random(size) < 0.5
        assert np.array_equal(from_bits(to_bits(bits))[:size], bits) and not from_bits(to_bits(bits))[size:].any()
        assert len(to_bits(bits)) == 2 * -(-size // 8)


def noisy(share: float) -> Method:
    """Answers correctly at random, by the text and the draw."""

    def answer(support: Examples, classes: Any, queries: Any) -> Answer:
        found = []
        for text in queries:
            label = next(label for label in classes if label in text)
            rng = np.random.default_rng([*text.encode(), *support.texts[0].encode()])
            found.append(label if rng.random() < share else classes[int(rng.integers(len(classes)))])
        return Answer(found, 0.0)

    return Method(answer)


@pytest.mark.parametrize(("ways", "test_size"), [(None, 60), (None, 1000), (3, 1000)], ids=["fixed", "rest", "ways"])
def test_records_tell_which_texts_were_answered_correctly(ways: int | None, test_size: int) -> None:
    draws = make_draws(make_domain(2), [2], 4, ways=ways, test_size=test_size)
    methods = {"one": noisy(0.5), "other": noisy(0.3)}
    records = run_methods(methods, draws, progress=False)
    mine, theirs = records[:4], records[4:]
    texts = sorted({text for draw in draws for text, _ in draw.test})
    judged, correct = np.zeros((4, len(texts)), dtype=bool), {name: np.zeros((4, len(texts))) for name in methods}
    for row, draw in enumerate(draws):
        for text, label in draw.test:
            judged[row, texts.index(text)] = True
            for name, method in methods.items():
                answer = method.on(dataclasses.replace(draw, test=[(text, label)]))
                correct[name][row, texts.index(text)] = answer.labels == [label]
    values = np.array([[record["accuracy"] for record in own] for own in (mine, theirs)])
    numbers = number_test_texts(draws)
    expected = two_way_interval(values[0], influence_of(correct["one"], judged))
    assert score_interval(mine, "accuracy", numbers) == pytest.approx(expected)
    difference = two_way_comparison(values[0] - values[1], difference_of(*correct.values(), judged))
    assert tuple(compare_accuracy(mine, theirs, numbers)) == pytest.approx(tuple(difference))
    for record in mine:
        truth, predicted = record["truth"], record["predicted"]
        assert f1_score(truth, predicted, labels=sorted({*truth}), average="macro", zero_division=0) == pytest.approx(
            record["macro_f1"]
        )
    assert score_interval(mine, "macro_f1", numbers) != score_interval(mine, "macro_f1")


def test_a_text_that_a_test_file_has_twice_counts_twice() -> None:
    test = Domain.from_records(["x car", "x car", "y food", "z car"], ["car", "car", "food", "car"], name="test")
    supports = [Domain.from_records(["a", "b"], ["car", "food"], name="s") for _ in range(2)]
    always_car = Method(lambda support, classes, queries: Answer(["car"] * len(queries), 0.0))
    draws = official_draws(supports, test)
    first, _ = run_methods({"car": always_car}, draws, progress=False)
    assert number_test_texts(draws) == 2 * [[0, 1, 2, 3]]
    assert from_bits(first["correct"])[:4].tolist() == [label == "car" for _, label in draws[0].test]


def test_records_without_answers_keep_students_t_over_draws() -> None:
    draws = make_draws(make_domain(2), [2], 4, test_size=60)
    records = run_methods({"one": noisy(0.5)}, draws, progress=False)
    old = [{"accuracy": r["accuracy"], "macro_f1": r["macro_f1"]} for r in records]
    numbers = number_test_texts(draws)
    assert score_interval(old, "accuracy", numbers) == confidence_interval([r["accuracy"] for r in records])
    assert score_interval(old, "macro_f1", numbers) == confidence_interval([r["macro_f1"] for r in records])
    expected = paired_comparison([r["accuracy"] for r in records], [0.5] * 4)
    assert compare_accuracy(records, [{"accuracy": 0.5}] * 4, numbers) == expected
