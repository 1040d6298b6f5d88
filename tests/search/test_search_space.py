"""The space of a search: how it is written, its combinations, and the settings that a trial's values stand for."""

from __future__ import annotations

from typing import Any

import pytest

from metatext import InputError, TrainConfig
from metatext.learners.settings import LearnerSettings
from metatext.search.search_space import Range, combination_in_words, combinations, configure, extremes, parse_space
from metatext.search.settings import SearchSettings


def test_names_alone_have_the_default_values() -> None:
    assert parse_space(SearchSettings().space) == {
        "order": ("prototypical", "first-order", "full"),
        "outer_lr": Range(3e-6, 3e-4),
        "inner_lr": Range(1e-3, 0.1),
        "inner_steps": Range(1, 8),
        "scope": ("all", "head", "top:2"),
    }
    assert parse_space(["inner_steps", "scope=lora", "outer-lr=1e-5,1e-4"]) == {
        "outer_lr": (1e-5, 1e-4),
        "inner_steps": Range(1, 8),
        "scope": ("lora",),
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--space is empty: name some of inner-lr"),
        (["shots"], "--space searches inner-lr, outer-lr, inner-steps, scope, order, each .* got 'shots'"),
        (["scope=all", "scope"], "--space names scope twice"),
        (["inner-steps=1..x"], "--space inner-steps=1..x cannot be read: write inner-steps=1..5 or inner-steps=1,3,5"),
        (["inner-steps=0..3"], "inner-steps=0..3 cannot be read"),
        (["outer-lr=1e-3..1e-5"], "outer-lr=1e-3..1e-5 cannot be read: write outer-lr=0.001..0.1"),
        (["order=second"], "order=second cannot be read: write order=prototypical,first-order,full"),
    ],
)
def test_a_space_that_cannot_be_read_is_refused(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        parse_space(words)


def test_ranges_on_a_grid() -> None:
    assert Range(2, 5).on_grid() == (2, 3, 4, 5)
    assert Range(1e-3, 0.1).on_grid() == (0.001, 0.01, 0.1)
    assert Range(3e-5, 1e-4).on_grid() == (3e-5, 1e-4)
    assert Range(0.5, 0.5).on_grid() == (0.5,)


def test_a_prototypical_network_is_one_combination() -> None:
    space = parse_space(["inner-steps=1..8", "scope=all,head", "order=prototypical,full"])
    assert extremes(space) == [
        {"order": "prototypical"},
        {"order": "full", "inner_steps": 1, "scope": "all"},
        {"order": "full", "inner_steps": 1, "scope": "head"},
        {"order": "full", "inner_steps": 8, "scope": "all"},
        {"order": "full", "inner_steps": 8, "scope": "head"},
    ]
    assert len(combinations({"outer_lr": (1e-5, 1e-4), "scope": ("all", "head", "lora")})) == 6


@pytest.mark.parametrize(
    ("given", "values", "steps"),
    [
        ({}, {"inner_steps": 3}, (3, 0)),
        ({"second_order_steps": 5}, {"inner_steps": 3}, (3, 3)),
        ({"second_order_steps": 2}, {"inner_steps": 3}, (3, 2)),
        ({}, {"order": "full", "inner_steps": 3}, (3, 3)),
        ({"second_order_steps": 5}, {"order": "first-order"}, (5, 0)),
        ({"second_order_steps": 5}, {"order": "prototypical"}, (0, 0)),
    ],
)
def test_the_order_follows_the_inner_steps(
    given: dict[str, Any], values: dict[str, Any], steps: tuple[int, int]
) -> None:
    learner, _ = configure(values, LearnerSettings(inner_steps=5, **given), TrainConfig())
    assert (learner.inner_steps, learner.second_order_steps) == steps


def test_values_take_their_places() -> None:
    values = {"outer_lr": 2e-5, "inner_lr": 0.0234567, "inner_steps": 2, "scope": "head"}
    learner, config = configure(values, LearnerSettings(max_length=32), TrainConfig(meta_steps=7))
    assert learner == LearnerSettings(max_length=32, inner_lr=0.0234567, inner_steps=2, scope="head")
    assert config == TrainConfig(meta_steps=7, outer_lr=2e-5)
    assert combination_in_words(values) == "outer_lr 2e-05, inner_lr 0.0235, inner_steps 2, scope head"


def test_values_that_contradict_the_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"second_order_steps must be from 0 to inner_steps \(1\), got 2"):
        configure({"inner_steps": 1}, LearnerSettings(second_order_steps=2), TrainConfig())
    with pytest.raises(InputError, match="order=full needs inner steps"):
        configure({"order": "full"}, LearnerSettings(inner_steps=0), TrainConfig())
