"""Episodes: deterministic, balanced, disjoint; classes held out for validation."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice

import pytest
from conftest import TOPICS, make_domain

from metatext import Domain, Episode, EpisodeSampler, InputError
from metatext.data.episode_sampler import distinct_texts, split_classes
from metatext.data.episodes import Examples, with_names


def domain_of(name: str, **texts: int | list[str]) -> Domain:
    """A domain from class name -> its texts, or how many to make up."""
    rows = {c: t if isinstance(t, list) else [f"{name} {c} {i}" for i in range(t)] for c, t in texts.items()}
    pairs = [(text, label) for label, some in rows.items() for text in some]
    return Domain(name, [text for text, _ in pairs], [label for _, label in pairs])


LETTERS = [domain_of("small", a=4, b=4, c=4), domain_of("large", b=6, c=6, d=6, e=6)]


# -------------------------------------------------------------------------------------------------------- the sampler
def test_an_episode_is_a_function_of_seed_and_index_on_every_machine() -> None:
    assert EpisodeSampler(LETTERS, ways=2, shots=1, queries=2, seed=3)[7] == Episode(
        domain="large",
        classes=["b", "e"],
        support=Examples(["large b 1", "large e 2"], [0, 1]),
        query=Examples(["large b 3", "large b 2", "large e 1", "large e 5"], [0, 0, 1, 1]),
    )


def test_names_stand_among_the_support_of_an_episode_whose_classes_all_have_one() -> None:
    episode = EpisodeSampler(LETTERS, ways=2, shots=1, queries=2, seed=3)[7]
    named = with_names(episode, {"b": "second", "e": "fifth", "a": "first"})
    assert named.support == Examples(["large b 1", "large e 2", "second", "fifth"], [0, 1, 0, 1])
    assert (named.domain, named.classes, named.query) == (episode.domain, episode.classes, episode.query)
    assert with_names(episode, {"b": "second"}) == episode
    assert with_names(episode, {"b": "second", "e": episode.query.texts[0]}) == episode  # as if it were not asked


def test_access_in_any_order_gives_the_same_episodes() -> None:
    sampler = EpisodeSampler(LETTERS, ways=2, shots=1, queries=2, seed=3)
    forwards = [sampler[i] for i in range(20)]
    assert [sampler[i] for i in reversed(range(20))][::-1] == forwards
    assert list(islice(EpisodeSampler(LETTERS, ways=2, shots=1, queries=2, seed=3), 20)) == forwards
    other = EpisodeSampler(LETTERS, ways=2, shots=1, queries=2, seed=4)
    assert all(other[i] != forwards[i] for i in range(20))
    assert len({str(episode) for episode in forwards}) == 20


def test_episodes_are_balanced_and_disjoint_and_of_one_domain() -> None:
    sampler = EpisodeSampler([make_domain(0, name="one"), make_domain(1, name="two")], ways=3, shots=2, queries=5)
    names, classes = Counter[str](), Counter[str]()
    rows = {d.name: dict(zip(d.texts, d.labels, strict=True)) for d in sampler.domains}
    for episode in islice(sampler, 200):
        assert Counter(episode.support.labels) == {0: 2, 1: 2, 2: 2}
        assert Counter(episode.query.labels) == {0: 5, 1: 5, 2: 5}
        texts, labels = episode.support.texts + episode.query.texts, episode.support.labels + episode.query.labels
        assert len(set(texts)) == 21
        assert [rows[episode.domain][text] for text in texts] == [episode.classes[label] for label in labels]
        names[episode.domain] += 1
        classes[episode.classes[0]] += 1
    assert sampler.classes == sorted(TOPICS)
    assert names.keys() == {"one", "two"}
    assert min(names.values()) > 70
    assert len(classes) == 6  # each class also comes first
    assert min(classes.values()) > 15


def test_identical_texts_and_ambiguous_ones_do_not_reach_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    domain = domain_of("d", a=["a0", "both", "a1", "a0", "a0", "a2", "a1"], b=["b0", "both", "b1", "b2", "b2", "b2"])
    with caplog.at_level(logging.WARNING):
        assert distinct_texts(domain) == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    assert caplog.messages == ["d: 1 texts stand under more than one class and are not drawn"]
    for episode in islice(EpisodeSampler([domain], ways=2, shots=1, queries=2), 30):
        assert sorted(episode.support.texts + episode.query.texts) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    with pytest.raises(InputError, match="has 0 classes with 4 distinct texts"):
        EpisodeSampler([domain], ways=2, shots=2, queries=2)


def test_small_classes_are_never_drawn() -> None:
    domain = domain_of("d", a=3, b=3, c=2, d=3)
    sampler = EpisodeSampler([domain], ways=2, shots=1, queries=2)
    assert sampler.classes == ["a", "b", "d"]
    assert {name for episode in islice(sampler, 50) for name in episode.classes} == {"a", "b", "d"}


def test_without_ways_every_class_is_drawn() -> None:
    sampler = EpisodeSampler([domain_of("d", a=3, b=3, c=2, d=3)], ways=None, shots=1, queries=2)
    episodes = list(islice(sampler, 20))
    assert all(sorted(episode.classes) == ["a", "b", "d"] for episode in episodes)
    assert len({tuple(episode.classes) for episode in episodes}) == 6  # in random order


def test_shared_labels_keep_one_order_and_only_what_all_domains_have() -> None:
    sampler = EpisodeSampler(LETTERS, ways=None, shots=1, queries=2, shared_labels=True)
    assert sampler.classes == ["b", "c"]
    episodes = list(islice(sampler, 20))
    assert all(episode.classes == ["b", "c"] for episode in episodes)
    assert {episode.domain for episode in episodes} == {"small", "large"}
    some = islice(EpisodeSampler([make_domain()], ways=3, shared_labels=True), 20)
    drawn = {tuple(episode.classes) for episode in some}
    assert len(drawn) > 5
    assert all(list(classes) == sorted(classes) for classes in drawn)


def test_shared_labels_that_do_not_overlap_are_refused_by_the_domains_names() -> None:
    domains = [domain_of("news", a=9, b=9), domain_of("posts", b=9, c=9)]
    with pytest.raises(InputError) as raised:
        EpisodeSampler(domains, shots=1, queries=1, shared_labels=True)
    assert str(raised.value) == (
        "no overlap of label sets, the domains must share at least two classes: 'news' has 'a', 'b'; "
        "'posts' has 'b', 'c'"
    )


def test_shared_labels_without_ways_need_every_shared_class_in_each_domain() -> None:
    domains = [domain_of("news", a=5, b=5, c=5), domain_of("posts", a=5, b=2, c=5)]
    with pytest.raises(InputError, match=r"domain 'posts' has 2 classes with 5 distinct texts .* but ways is 3"):
        EpisodeSampler(domains, ways=None, shots=1, queries=4, shared_labels=True)
    assert EpisodeSampler(domains, ways=2, shots=1, queries=4, shared_labels=True).classes == ["a", "b", "c"]


def test_a_domain_that_cannot_serve_is_named_with_the_numbers() -> None:
    with pytest.raises(InputError) as raised:
        EpisodeSampler([domain_of("fine", a=9, b=9, c=9), domain_of("poor", a=9, b=4, c=9)], ways=3, shots=2, queries=4)
    assert str(raised.value) == (
        "domain 'poor' has 2 classes with 6 distinct texts (shots 2 + queries 4) but ways is 3; its classes: 3, the "
        "smallest, 'b', has 4 texts: lower --ways, --shots or --queries, add rows, or take --varied"
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ways", 1, "ways must be at least 2, got 1"),
        ("shots", 0, "shots must be at least 1, got 0"),
        ("queries", 0, "queries must be at least 1, got 0"),
        ("seed", -1, "seed must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(option: str, value: int, message: str) -> None:
    with pytest.raises(InputError) as raised:
        EpisodeSampler(LETTERS, **{option: value})
    assert str(raised.value) == message


def test_no_domains_and_negative_indices_are_refused() -> None:
    with pytest.raises(InputError, match="an episode sampler needs at least one domain"):
        EpisodeSampler([])
    with pytest.raises(IndexError, match="episodes are numbered from 0, got -1"):
        EpisodeSampler(LETTERS, ways=2, shots=1, queries=2)[-1]


# ----------------------------------------------------------------------------------------------------- held-out classes
def test_held_out_names_are_held_out_of_every_domain() -> None:
    domains = [domain_of("one", **dict.fromkeys("abcdefgh", 2)), domain_of("two", **dict.fromkeys("cdefghij", 2))]
    for seed in range(10):
        train, valid = split_classes(domains, ways=4, fraction=0.3, seed=seed)
        taught = set().union(*(d.classes for d in train))
        validated = set().union(*(d.classes for d in valid))
        assert [d.name for d in train] == ["one", "two"]
        assert not taught & validated
        assert len(set("abcdefghij") - taught) == 3
        assert all(len(d.classes) >= 4 for d in train)
        assert all(len(d.classes) >= 2 for d in valid)
        assert sum(len(d) for d in train + valid) <= 32
    splits = [split_classes(domains, ways=4, seed=seed)[1] for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len({str(split) for split in splits}) > 1


def test_every_domain_keeps_enough_classes_to_train_on() -> None:
    domains = [domain_of("tight", a=2, b=2, c=2), domain_of("wide", **dict.fromkeys("abcdefgh", 2))]
    for seed in range(10):
        train, valid = split_classes(domains, ways=3, fraction=0.9, seed=seed)
        assert [d.classes for d in train] == [["a", "b", "c"], ["a", "b", "c"]]
        assert [(d.name, d.classes) for d in valid] == [("wide", ["d", "e", "f", "g", "h"])]


def test_at_least_two_names_are_held_out() -> None:
    (train,), (valid,) = split_classes([domain_of("d", **dict.fromkeys("abcde", 2))], ways=2, fraction=0.01)
    assert (len(train.classes), len(valid.classes)) == (3, 2)


@pytest.mark.parametrize(("ways", "fraction"), [(3, 0.5), (2, 0.5), (2, 0.0)])
def test_validation_is_empty_where_no_class_can_be_spared(ways: int, fraction: float) -> None:
    domains = [domain_of("d", **dict.fromkeys("abc" if fraction else "abcdefgh", 2))]
    assert split_classes(domains, ways=ways, fraction=fraction) == (domains, [])


def test_named_classes_are_held_out() -> None:
    train, valid = split_classes(LETTERS, ways=2, names=["d", "a", "e"])
    assert [(d.name, d.classes) for d in train] == [("small", ["b", "c"]), ("large", ["b", "c"])]
    assert [(d.name, d.classes) for d in valid] == [("large", ["d", "e"])]  # one class is no task


def test_a_named_class_that_no_source_has_is_refused() -> None:
    with pytest.raises(InputError) as raised:
        split_classes(LETTERS, ways=2, names=["b", "q"])
    assert str(raised.value) == "validation class 'q' is in no source; their classes are a, b, c, d, e"


def test_examples_have_a_length() -> None:
    assert len(Examples(["a", "b"], [0, 1])) == 2


def test_some_domain_has_two_validation_classes_wherever_one_can() -> None:
    domains = [
        Domain.from_records(
            [f"{c}{i}" for c in names for i in range(4)], [c for c in names for _ in range(4)], name=names
        )
        for names in ("abcde", "vwxyz")
    ]
    for seed in range(50):
        train, valid = split_classes(domains, 3, 0.2, seed)
        assert valid and all(len(domain.classes) >= 3 for domain in train)


def test_named_validation_classes_must_make_a_split() -> None:
    domain = make_domain()
    with pytest.raises(InputError, match="no domain has two of the validation classes car: name at least two of one"):
        split_classes([domain], ways=3, names=["car"])
    with pytest.raises(InputError, match="leaves domain 'news' 2 classes, but ways is 3"):
        split_classes([domain], ways=3, names=["car", "food", "tech", "sport"])


# ---------------------------------------------------------------- episodes of several kinds
def test_varied_episodes_have_up_to_so_many_classes_and_texts() -> None:
    topics, polarity = domain_of("topics", **dict.fromkeys("abcdef", 20)), domain_of("polarity", a=20, b=20)
    sampler = EpisodeSampler([topics, polarity], ways=5, shots=4, queries=3, varied=True)
    episodes = [sampler[i] for i in range(200)]
    seen = {(e.domain, len(e.classes), len(e.support) // len(e.classes)) for e in episodes}
    assert {(ways, shots) for domain, ways, shots in seen if domain == "topics"} == {
        (ways, shots) for ways in range(2, 6) for shots in range(1, 5)
    }
    assert {(ways, shots) for domain, ways, shots in seen if domain == "polarity"} == {(2, k) for k in range(1, 5)}
    assert all(len(e.query) == 3 * len(e.classes) for e in episodes)
    with pytest.raises(InputError, match="ways is 5"):
        EpisodeSampler([topics, polarity], ways=5, shots=4, queries=3)


@pytest.mark.parametrize(("temperature", "share"), [(None, 0.5), (1.0, 0.9), (2.0, 0.75)])
def test_temperature_weighs_domains_by_size(temperature: float | None, share: float) -> None:
    large, small = domain_of("large", a=90, b=90), domain_of("small", a=10, b=10)
    sampler = EpisodeSampler([large, small], ways=2, shots=1, queries=1, temperature=temperature)
    drawn = sum(sampler[i].domain == "large" for i in range(2000)) / 2000
    assert drawn == pytest.approx(share, abs=0.04)


def test_a_domain_whose_classes_are_all_held_out_validates_alone() -> None:
    train, valid = domain_of("train", **dict.fromkeys("abcd", 5)), domain_of("valid", e=5, f=5)
    left, held = split_classes([train, valid], 4, names=valid.classes)
    assert [d.name for d in left] == ["train"] and [d.name for d in held] == ["valid"]
    with pytest.raises(InputError, match="every class of every domain is held out"):
        split_classes([valid], 2, names=valid.classes)


def test_hard_episodes_have_classes_that_share_words() -> None:
    """Four pairs of classes; those of a pair share all their words but one."""
    words = ["apple", "bridge", "candle", "dolphin"]
    texts = {f"{w}{k}": [f"{w} {w} {'xyz'[k]} {i}" for i in range(8)] for w in words for k in (0, 1)}
    domain = domain_of("d", **texts)
    twins = [
        sum(a[:-1] == b[:-1] for a, b in (EpisodeSampler([domain], 2, 1, 1, hard=hard)[i].classes for i in range(300)))
        for hard in (0.0, 0.5, 1.0)
    ]
    assert twins[0] == pytest.approx(300 / 7, abs=20) and twins[2] == 300
    assert twins[1] == pytest.approx(300 * (0.5 + 0.5 / 7), abs=30)
    sampler = EpisodeSampler([domain], 3, 1, 1, hard=1.0)
    assert {name for i in range(100) for name in sampler[i].classes} == set(texts)
    assert {sampler[i].classes.index(name) for i in range(100) for name in sampler[i].classes} == {0, 1, 2}
    with pytest.raises(InputError, match="hard must be from 0 to 1, and 0 where all"):
        EpisodeSampler([domain, domain], 2, 1, 1, shared_labels=True, hard=0.5)
