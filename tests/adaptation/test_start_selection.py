"""Blends of pretrained and meta-trained weights, what is remembered of the sources, and the start that is chosen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_rows
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from metatext import Domain, FewShotClassifier, Learner
from metatext.adaptation.adapt import adapt, support_of
from metatext.adaptation.fine_tuning import fine_tuned
from metatext.adaptation.held_out import HeldOutFit
from metatext.adaptation.prototypes import CentredFeatures, CentrePrior
from metatext.adaptation.start import encoded_names
from metatext.adaptation.start_selection import choose_start, posterior_means, source_rows
from metatext.data.class_names import (
    check_class_names,
    class_names_for,
    names_of_domains,
    parse_class_names,
    readable_names,
    without_negations,
)
from metatext.data.episodes import Examples
from metatext.encoders.tokenization import TokenCache, load_tokenizer
from metatext.errors import InputError
from metatext.evaluation.settings import EvaluateSettings
from metatext.learners.state import SourceClasses
from metatext.learners.weight_blending import BLENDS, blended, remember_source_classes

TEXTS = ["球队比赛进球", "股票基金银行", "汽车轿车试驾", "冠军教练联赛", "利率投资市场", "油耗车展驾驶"]
SUPPORT = Examples(TEXTS, [0, 1, 2, 0, 1, 2])
CLASSES = ["a", "b", "c"]
KNOWN = ["sport", "money", "cars"]  # a label of one letter says nothing
NAMELESS = ["", "", ""]


@pytest.fixture
def learner(tiny_bert: Path) -> Learner:
    """A learner whose encoder has moved away from the pretrained one."""
    learner = Learner.from_pretrained(tiny_bert, inner_steps=2, inner_lr=0.003)
    generator = torch.Generator().manual_seed(1)
    for p in learner.encoder.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=generator)
    learner.meta_trained = True
    return learner


# ---------------------------------------------------------------- blends
def test_a_blend_lies_on_the_line_between_the_two_encoders(learner: Learner, tiny_bert: Path) -> None:
    start = dict(Learner.from_pretrained(tiny_bert).encoder.named_parameters())
    end = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}
    for share in BLENDS:
        with blended(learner, share):
            for name, p in learner.encoder.named_parameters():
                expected = share * end[name] + (1 - share) * start[name]
                torch.testing.assert_close(p, expected, rtol=0.0, atol=2e-3 if share < 1 else 0.0)  # float16
    for name, p in learner.encoder.named_parameters():
        assert torch.equal(p, end[name])


def test_blends_of_adapters_reach_from_none_to_all(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope="lora")
    plain = Learner.from_pretrained(tiny_bert).encode(TEXTS)
    for name, p in learner.encoder.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    whole = learner.encode(TEXTS)
    assert (whole - plain).abs().max() > 0.1
    with blended(learner, 0.0):
        torch.testing.assert_close(learner.encode(TEXTS), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(learner.encode(TEXTS), whole)


def test_source_classes_are_remembered_as_directions_from_their_domains_mean(learner: Learner) -> None:
    first = Domain.from_records(TEXTS[:4], ["x", "y", "y", "x"], name="first")
    second = Domain.from_records(TEXTS[2:], ["z", "x", "z", "x"], name="second")
    names, prototypes, centroids = remember_source_classes(learner, [first, second])
    assert names == ["x", "y", "z"] and prototypes.shape == (len(BLENDS), 3, 32)
    with blended(learner, 0.5):
        vectors = learner.encode(TEXTS).double().numpy()

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    x1, y1 = vectors[[0, 3]].mean(0), vectors[[1, 2]].mean(0)
    z2, x2 = vectors[[2, 4]].mean(0), vectors[[3, 5]].mean(0)
    expected = [unit(unit(x1 - y1) + unit(x2 - z2)), unit(y1 - x1), unit(z2 - x2)]
    np.testing.assert_allclose(prototypes[BLENDS.index(0.5)].numpy(), np.stack(expected), atol=1e-4)
    assert centroids is not None  # x is of both domains
    np.testing.assert_allclose(centroids[BLENDS.index(0.5)].numpy(), np.stack([(x1 + x2) / 2, y1, z2]), atol=1e-4)
    alone = Domain.from_records(TEXTS[:2], ["w", "w"], name="alone")  # no direction from others
    assert remember_source_classes(learner, [first, alone]).names == ["x", "y"]


def test_what_a_learner_knows_beside_its_weights_is_saved(learner: Learner, tmp_path: Path) -> None:
    learner.source_classes = remember_source_classes(learner, [Domain.from_records(TEXTS, CLASSES * 2, name="d")])
    learner.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner")
    assert again.pretrained and learner.pretrained and again.source_classes
    assert all(torch.equal(again.pretrained[name], value) for name, value in learner.pretrained.items())
    assert again.source_classes.names == CLASSES
    for before, after in zip(learner.source_classes[1:], again.source_classes[1:], strict=True):
        assert before is not None and after is not None and torch.equal(before, after)
    learner.source_classes = learner.source_classes._replace(centroids=None)  # as an earlier version's
    learner.save_pretrained(tmp_path / "earlier")
    earlier = Learner.from_pretrained(tmp_path / "earlier").source_classes
    assert earlier and earlier.centroids is None


# ---------------------------------------------------------------- the layer
def test_the_layer_gives_cosines_to_the_prototypes() -> None:
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    labels, known = torch.tensor([0, 1, 2] * 2), torch.zeros(3, 8)
    space = CentredFeatures(features, labels, 3)
    away = features - space.centre
    cosines = torch.nn.functional.cosine_similarity(away.unsqueeze(1), space.prototypes(known).unsqueeze(0), dim=2)
    logits = space.layer(known, 4.0).logits(features)
    expected = 4.0 * cosines * away.norm(dim=1, keepdim=True) / space.radius
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what is chosen
def test_the_better_encoder_is_chosen(learner: Learner, tiny_bert: Path) -> None:
    rows = make_rows(0, 4)
    classes = sorted({row["label"] for row in rows})
    support = Examples([row["text"] for row in rows], [classes.index(row["label"]) for row in rows])
    names = [""] * len(classes)
    for p in learner.encoder.parameters():
        p.data.normal_(std=0.5, generator=torch.Generator().manual_seed(4))  # has forgotten everything
    start = choose_start(learner, support, classes, names)
    assert start and start.blend < 0.5
    good = Learner.from_pretrained(tiny_bert)
    good.pretrained = {name: p.detach().half() for name, p in learner.encoder.named_parameters()}
    start = choose_start(good, support, classes, names)
    assert start and start.blend > 0.5


def test_the_classifiers_scale_is_the_calibrated_one(learner: Learner) -> None:
    start = choose_start(learner, SUPPORT, CLASSES, NAMELESS, 1.0)
    assert start and start.calibrated_scale != start.scale
    radius = CentredFeatures(learner.encode(TEXTS), torch.tensor(SUPPORT.labels), 3).radius
    torch.testing.assert_close(start.layer.weight.norm(dim=1) * radius, torch.full((3,), start.calibrated_scale))


def test_with_one_text_a_class_the_blend_is_halfway(learner: Learner) -> None:
    start = choose_start(learner, Examples(TEXTS[:3], [0, 1, 2]), CLASSES, NAMELESS)
    assert start and (start.blend, start.prior_weight) == (0.5, 0.0)


def test_names_and_source_classes_count_like_texts(learner: Learner) -> None:
    one = Examples(TEXTS[:3], [0, 1, 2])
    named = choose_start(learner, one, CLASSES, [TEXTS[3], TEXTS[4], TEXTS[5]])
    assert named and named.prior_weight > 1.7  # what the prior odds alone give
    learner.source_classes = remember_source_classes(learner, [Domain.from_records(TEXTS, KNOWN * 2, name="source")])
    known = choose_start(learner, one, KNOWN, None)
    assert known and known.prior_weight > 0
    without = choose_start(learner, one, CLASSES, NAMELESS, sources=False)
    assert without and without.prior_weight == 0


@pytest.mark.parametrize("copies", [1, 4])
def test_names_that_the_texts_contradict_lose_their_weight(learner: Learner, copies: int) -> None:
    texts = [text + "。" * i for text in TEXTS[:3] for i in range(copies)]
    support = Examples(texts, [label for label in range(3) for _ in range(copies)])
    right = [TEXTS[3], TEXTS[4], TEXTS[5]]
    starts = [choose_start(learner, support, CLASSES, names) for names in (right, [right[1], right[2], right[0]])]
    right_weight, wrong_weight = (start.prior_weight for start in starts if start)
    assert right_weight >= 1.5 and wrong_weight < right_weight / 2


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["ironic", "not_ironic"], [False, False]),
        (["rumor", "Non-Rumor", "news"], [False, False, True]),
        (["rumor", "nonrumor", "news"], [False, False, True]),
        (["讽刺", "不讽刺", "其他"], [False, False, True]),
        (["体育", "体育小说"], [False, False]),
        (["体育", "体育小说", "财经"], [True, True, True]),
        (["arts", "arts & culture"], [False, False]),
        (["arts", "arts & culture", "sports"], [True, True, True]),
        (["arts", "", "arts & culture"], [False, False, False]),
        (["card arrival", "card payment"], [True, True]),
        (["positive", "negative"], [True, True]),
        (["male", "female"], [True, True]),
        (["none", "favor", "against"], [True, True, True]),
        (["yes", "no"], [True, True]),
        (["sports", "technology\nnot about sports"], [True, True]),
        (["ironic\nsarcastic", "serious\nnot ironic"], [False, False]),
        (["anti", "pro"], [True, True]),
    ],
)
def test_names_of_which_one_is_the_negation_or_a_part_of_the_other_say_nothing(
    names: list[str], kept: list[bool]
) -> None:
    assert without_negations(names) == [name if keep else "" for name, keep in zip(names, kept, strict=True)]


def test_a_name_and_its_negation_are_no_prior(learner: Learner) -> None:
    support = Examples(TEXTS[:2], [0, 1])
    priors = [choose_start(learner, support, CLASSES[:2], ["球队", other], 1.0) for other in ("非球队", "股票")]
    assert [bool(start.class_priors.any()) for start in priors if start] == [False, True]


def test_source_classes_are_taken_from_the_blend(learner: Learner) -> None:
    prototypes = torch.zeros(len(BLENDS), 3, 32)
    prototypes[BLENDS.index(0.75)] = torch.eye(3, 32)
    learner.source_classes = SourceClasses(KNOWN, prototypes)
    chosen = {share: choose_start(learner, SUPPORT, KNOWN, None, share) for share in (0.5, 0.75)}
    plain = choose_start(learner, SUPPORT, KNOWN, None, 0.5, sources=False)
    assert chosen[0.5] and plain and torch.equal(chosen[0.5].layer.weight, plain.layer.weight)
    assert chosen[0.75] and (chosen[0.75].blend, chosen[0.75].centre_prior) == (0.75, None)
    assert (
        torch.equal(chosen[0.75].class_priors, chosen[0.75].prior_weight * torch.eye(3, 32))
        and chosen[0.75].prior_weight > 0
    )


def with_source_classes(learner: Learner, names: list[str]) -> Learner:
    """The learner remembers its classes as they are in its own blends: in each, the direction of a text."""
    prototypes = []
    for share in BLENDS:
        with blended(learner, share):
            vectors = learner.encode(TEXTS[3:]).float()
        prototypes.append(torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1))
    learner.source_classes = SourceClasses(names, torch.stack(prototypes))
    return learner


def test_classes_of_the_sources_start_at_what_was_learned_of_them(learner: Learner) -> None:
    one = Examples(TEXTS[:3], [0, 1, 2])
    with_source_classes(learner, ["Sport News", "money", "cars"])
    for labels, names in (
        (["sport_news", "Money", "CARS"], None),  # by the label, in any case
        (["0", "1", "2"], ["sport news", "money", "cars"]),  # by the name
        (["sport news", "money", "cars"], ["体育", "理财", "汽车"]),  # by the label, also if it has another name
    ):
        start = choose_start(learner, one, labels, names)
        assert start and (start.blend, start.prior_weight) == (0.75, 2.0)
        if names is None:
            assert learner.source_classes
            torch.testing.assert_close(start.class_priors, 2 * learner.source_classes.prototypes[-2])
    some = choose_start(learner, one, ["sport_news", "money", "other"], None)
    assert some and some.blend == 0.5 and not some.class_priors[2].any()
    own = choose_start(learner, one, ["sport_news", "money", "cars"], None, blend=0.25)
    assert own and own.blend == 0.25


@pytest.mark.parametrize(
    ("known", "labels", "names", "rows"),
    [
        (["0", "1"], ["0", "1"], ["", ""], [[], []]),  # numbers say nothing
        (["sports", "cars"], ["sports", "cars"], ["", "cars"], [[], [1]]),  # nor does an empty name
        (["_", "cars"], ["_", "cars"], None, [[], [1]]),
        (["Arts", "ARTS", "cars"], ["arts", "cars"], None, [[0, 1], [2]]),  # of two sources
        (["sports", "cars"], ["sports", "SPORTS", "cars"], None, [[], [], [1]]),  # two classes are not one
        (["sports", "cars"], ["other", "cars"], ["sports", "autos"], [[0], [1]]),
    ],
)
def test_classes_are_found_among_those_of_the_sources(
    learner: Learner, known: list[str], labels: list[str], names: list[str] | None, rows: list[list[int]]
) -> None:
    learner.source_classes = SourceClasses(known, torch.zeros(len(BLENDS), len(known), 32))
    assert source_rows(learner, labels, names) == rows


def test_the_centre_of_a_few_texts_is_drawn_to_that_of_the_sources_classes_where_these_differ() -> None:
    features = torch.tensor([[2.0, 0.0, 5.0], [4.0, 2.0, 7.0]])  # their centre is (3, 1, 6)
    centre_prior = CentrePrior(torch.tensor([0.0, 4.0, 0.0]), torch.tensor([[1.0, 0.0, 0.0]]))
    assert CentredFeatures(features, torch.tensor([0, 1]), 2, centre_prior).centre.tolist() == [
        3.0 * 2 / (2 + 4),
        1.0,
        6.0,
    ]
    assert CentredFeatures(features.repeat(14, 1), torch.tensor([0, 1] * 14), 2, centre_prior).centre.tolist() == [
        2.625,
        1.0,
        6.0,
    ]

    uneven = CentredFeatures(features[[0] + [1] * 9], torch.tensor([0] + [1] * 9), 2, centre_prior)
    assert float(uneven.centre[0]) == pytest.approx(3 * 3.6 / (3.6 + 4))  # as uncertain as 3.6 texts in equal numbers


def test_the_middle_is_that_of_the_targets_classes(learner: Learner) -> None:
    """The directions are those that part the classes, and nothing else moves."""
    learner.source_classes = remember_source_classes(
        learner, [Domain.from_records(TEXTS[3:], ["x", "y", "z"], name="d")]
    )
    start = choose_start(learner, Examples(TEXTS[:2], [0, 1]), ["x", "y"], None)
    assert start and start.centre_prior is None  # labels of one letter say nothing
    start = choose_start(learner, Examples(TEXTS[:2], [0, 1]), ["0", "1"], ["x", "y"], 1.0)
    assert start and start.centre_prior
    apart = learner.source_classes.prototypes[-1, 0] - learner.source_classes.prototypes[-1, 1]
    torch.testing.assert_close(start.centre_prior.basis.abs(), (apart / apart.norm()).abs().unsqueeze(0))
    torch.testing.assert_close(start.centre_prior.point, learner.encode(TEXTS[3:5]).float().mean(0))
    own = learner.encode(TEXTS[:2]).float().mean(0)
    moved = CentredFeatures(learner.encode(TEXTS[:2]).float(), torch.tensor([0, 1]), 2, start.centre_prior).centre - own
    expected = 4 / 6 * apart * ((start.centre_prior.point - own) @ apart) / (apart @ apart)
    torch.testing.assert_close(moved, expected)
    more = choose_start(learner, Examples(TEXTS[:2], [0, 1]), ["0", "1"], ["x", "w"])
    assert more and more.centre_prior is None


def test_texts_that_bear_out_what_was_learned_leave_it_its_weight(learner: Learner) -> None:
    with_source_classes(learner, KNOWN)
    texts = [text + end for text in TEXTS for end in ("", "。", "！", "?")]
    right, wrong = ([label for label in labels for _ in range(4)] for labels in ([0, 1, 2] * 2, [1, 2, 0] * 2))
    first, second = (choose_start(learner, Examples(texts, labels), KNOWN, None) for labels in (right, wrong))
    assert first and second and first.prior_weight > 1.5 and second.prior_weight < first.prior_weight / 2


def test_with_one_text_a_class_the_sources_classes_are_doubted_less_than_names(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Examples(TEXTS[:3], [0, 1, 2])
    with_source_classes(learner, KNOWN)
    for nats in (0.0, -2.4, -5.3):  # the log odds of names and of source classes are 2.4 and 5.3 nats

        def fit(*how: torch.Tensor, nats: float = nats) -> HeldOutFit:
            return HeldOutFit(nats if how[2].any() else 0.0, 4.0, 4.0)

        monkeypatch.setattr("metatext.adaptation.start_selection.held_out_fit", fit)
        starts = [choose_start(learner, one, KNOWN, None), choose_start(learner, one, KNOWN, TEXTS[3:], sources=False)]
        shares = [1 / (1 + math.exp(-log_odds - nats)) for log_odds in (5.3, 2.4)]
        weights = [round(math.exp(share * math.log(3)) - 1, 1) for share in shares]  # 1 + weight is 1 or 3
        assert [start.prior_weight for start in starts if start] == weights


def test_where_texts_say_nothing_the_start_is_what_the_prior_says(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_source_classes(learner, KNOWN)
    monkeypatch.setattr("metatext.adaptation.start_selection.held_out_fit", lambda *how: HeldOutFit(-1.0, 4.0, 4.0))
    shared = choose_start(learner, SUPPORT, KNOWN, None)
    # 4 nats for the meta-trained weights: their share is 0.86 on average, to which 0.75 is the nearest blend
    odds = {0: 1.0, 1: math.exp(3), 2: math.exp(3.5), 4: math.exp(4), 8: math.exp(4.5)}
    mean = math.exp(sum(p * math.log(1 + weight) for weight, p in odds.items()) / sum(odds.values())) - 1
    assert shared and (shared.blend, shared.prior_weight) == (0.75, round(mean, 1))
    named = choose_start(learner, SUPPORT, KNOWN, TEXTS[3:], sources=False)
    # every blend is as likely; a nat for each weight above 0
    mean = math.exp(sum(math.e * math.log(1 + weight) for weight in (1, 2, 4, 8)) / (1 + 4 * math.e)) - 1
    assert named and (named.blend, named.prior_weight) == (0.5, round(mean, 1))


def test_where_texts_say_all_the_start_is_the_one_that_they_favour() -> None:
    scores = {(share, weight): 0.0 for share in BLENDS for weight in (0.0, 2.0, 8.0)}
    assert posterior_means(scores | {(0.25, 8.0): 50.0}) == (0.25, 8.0)
    two = posterior_means(scores | {(0.0, 8.0): 50.0, (0.5, 0.0): 50.0})
    assert two == (0.25, 2.0)  # in logarithms: 1 + weight is 9 or 1
    assert posterior_means({(1.0, 0.0): -3.0}) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["sports", "card_payment"], ["sports", "card payment"]),
        (["体育", "科技"], ["体育", "科技"]),
        (["0", "1"], ["", ""]),
        (["class 1", "class_2"], ["", ""]),
        (["a", "b"], ["", ""]),
        (["-1", "positive"], ["", "positive"]),
        (["mortgage", "w2", "taxes"], ["mortgage", "", "taxes"]),
        (["w2", "w4", "mortgage", "class 1", "class 2"], ["", "", "mortgage", "", ""]),
        (["忧", "喜"], ["忧", "喜"]),
    ],
)
def test_labels_that_say_nothing_are_no_names(labels: list[str], names: list[str]) -> None:
    assert readable_names(labels) == names


# ---------------------------------------------------------------- as a user meets it
def words_and_letters() -> PreTrainedTokenizerFast:
    """As BERT's: the words rain and sport, the end ##s, two Chinese characters, and single letters."""
    parts = [mark + c for c in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    vocab = {part: i for i, part in enumerate(["[UNK]", "rain", "sport", "天", "气", *parts])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def pieces() -> PreTrainedTokenizerFast:
    """As XLM-R's: words begin with a mark of their own, which may stand alone."""
    vocab = [("<unk>", 0.0), ("▁", -2.0), *((part, -3.0) for part in ("▁rain", "▁sport", "s", "天气"))]
    backend = Tokenizer(models.Unigram([*vocab, *((c, -9.0) for c in "wea▁thrk")], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def byte_pairs() -> PreTrainedTokenizerFast:
    """As RoBERTa's: of bytes, a few of which are joined."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "i"), ("ai", "n"), ("r", "ain"), ("s", "p"), ("o", "r"), ("or", "t"), ("sp", "ort")]
    vocab = {part: i for i, part in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("tokenizer", [words_and_letters, pieces, byte_pairs])
def test_a_name_that_the_vocabulary_spells_says_nothing(tokenizer: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokens = TokenCache(tokenizer(), 64)
    assert [name for name in ("rain", "sports", "rain sport") if not tokens.reads(name)] == []
    assert [name for name in ("weather", "海", "hat", "погода") if tokens.reads(name)] == []
    for name in ("天气", "天气 ⚽", "rain!"):
        assert tokens.reads(name) == (tokenizer is not byte_pairs or name == "rain!")


def test_a_prefix_is_no_part_of_a_name(tmp_path: Path) -> None:
    words_and_letters().save_pretrained(tmp_path)
    tokens = TokenCache(load_tokenizer(tmp_path, "query: "), 64)
    assert tokens.reads("rain") and tokens.reads("天气") and not tokens.reads("weather")


def test_names_that_are_not_read_are_left_out_and_named(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    one = Examples(TEXTS[:3], [0, 1, 2])
    start = choose_start(learner, one, CLASSES, ["weather", "fitness", "pets"])
    assert start and start.prior_weight == 0.0
    adapt(learner, TEXTS[:3], CLASSES, class_names={"a": "weather", "b": "fitness", "c": TEXTS[5]})
    assert (
        "the encoder has no words for what these labels are called, so their names are not used: 'a', 'b'; "
        in caplog.text
    )
    caplog.clear()
    adapt(with_source_classes(learner, KNOWN), TEXTS[:3], KNOWN)
    assert "no words" not in caplog.text  # it knows the classes otherwise


def test_labels_without_a_name_beside_others_with_one_are_named(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"a": TEXTS[3], "b": TEXTS[4]}
    adapted = adapt(learner, TEXTS, CLASSES * 2, class_names=names)
    assert adapted.metadata["start"]["names_weight"] > 0
    assert "do not say what they are and have no name, as others do: 'c'" in caplog.text
    caplog.clear()
    adapt(learner, TEXTS, CLASSES * 2, class_names=names | {"c": TEXTS[5]})
    adapt(learner, TEXTS, CLASSES * 2, class_names=names | {"c": ""})  # on purpose
    adapt(learner, TEXTS, CLASSES * 2)
    assert "have no name" not in caplog.text


def test_the_exported_classifier_computes_the_chosen_start(learner: Learner) -> None:
    fitted = FewShotClassifier(learner).fit(TEXTS, CLASSES * 2)
    support = support_of(TEXTS, CLASSES * 2, CLASSES)
    start = choose_start(learner, support, CLASSES, readable_names(CLASSES))
    assert start
    with blended(learner, start.blend):
        expected = start.layer.logits(learner.encode(TEXTS)).softmax(1)
    np.testing.assert_allclose(fitted.predict_proba(TEXTS), expected.numpy(), atol=1e-4)
    assert fitted.adapted_.metadata["start"] == {
        "blend": start.blend,
        "names_weight": start.prior_weight,
        "shared": False,
        "centre_variance": start.layer.centre_variance,
    }
    assert fitted.adapted_.metadata["inner_steps"] == 0


def test_the_exported_classifier_keeps_to_the_middle_of_the_sources_classes(learner: Learner) -> None:
    learner.source_classes = remember_source_classes(learner, [Domain.from_records(TEXTS[3:], KNOWN, name="source")])
    classifier = FewShotClassifier(learner, blend=1.0).fit(TEXTS[:3], KNOWN)
    start = choose_start(learner, Examples(TEXTS[:3], [2, 1, 0]), sorted(KNOWN), readable_names(sorted(KNOWN)), 1.0)
    assert start and start.centre_prior
    vectors = learner.encode(TEXTS).float()
    own = vectors[:3].mean(0)
    centre = own + (start.centre_prior.point - own) @ start.centre_prior.basis.T @ start.centre_prior.basis * 4 / 7
    expected = start.layer.weight @ (vectors - centre).T
    found = torch.from_numpy(classifier.predict_proba(TEXTS)).log().T
    torch.testing.assert_close(found - found.mean(0), expected - expected.mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("epochs", "unlabelled"), [(1, []), (0, ["球迷主场"])])
def test_what_follows_the_start_keeps_to_the_middle(learner: Learner, epochs: int, unlabelled: list[str]) -> None:
    start = choose_start(learner, SUPPORT, CLASSES, NAMELESS, 1.0)
    assert start and start.centre_prior is None
    layers = []
    for centre in (None, CentrePrior(torch.full((32,), 9.0), torch.eye(32))):
        with fine_tuned(learner, SUPPORT, start._replace(centre_prior=centre), epochs, unlabelled) as layer:
            layers.append(layer.weight.clone())
    assert not torch.allclose(*layers, rtol=0.1)


def test_class_names_change_what_is_learned(learner: Learner) -> None:
    plain = FewShotClassifier(learner).fit(TEXTS[:3], [1, 2, 3]).predict_proba(TEXTS)
    names = {1: TEXTS[3], 2: TEXTS[4], 3: TEXTS[5]}
    named = FewShotClassifier(learner, class_names=names).fit(TEXTS[:3], [1, 2, 3]).predict_proba(TEXTS)
    rows = np.arange(3)
    assert (named[rows + 3, rows] > plain[rows + 3, rows]).all()  # the texts that are the names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": {"d": "x"}}, "class_names has a name for label 'd'; there are 'a', 'b', 'c'"),
        ({"class_names": {"a": "x", "c": "x"}}, "labels 'a' and 'c' are both called 'x': class_names must"),
        ({"class_names": {"a": "Cars", "b": " cars"}}, "labels 'a' and 'b' are both called ' cars'"),
        ({"blend": 0.4}, "blend must be one of 0.0, 0.25, 0.5, 0.75, 1.0, got 0.4"),
    ],
)
def test_impossible_wishes_are_refused(learner: Learner, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        adapt(learner, TEXTS, CLASSES * 2, **options)


def test_texts_that_are_not_what_they_seem_are_counted(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "metatext"):
        adapt(learner, [*TEXTS, TEXTS[0], TEXTS[0] * 2], [*CLASSES * 2, "b", "a"])
    assert f"1 texts have more than one label, the first is {TEXTS[0]!r}" in caplog.text
    assert "classes of their own" not in caplog.text
    adapt(learner, TEXTS[:4], ["wet ice", "Wet_ice ", "b", "b"])
    assert "'Wet_ice ', 'wet ice' are classes of their own: only case, spaces or underscores differ" in caplog.text


def test_a_learned_head_takes_no_start(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, head="linear", classes=CLASSES)
    for wish in ({"blend": 0.5}, {"class_names": {"a": "球"}}):
        with pytest.raises(InputError, match=f"{next(iter(wish))} is for learners with a prototype head"):
            adapt(learner, TEXTS, CLASSES * 2, **wish)


def test_a_label_without_a_name_keeps_what_it_says() -> None:
    assert class_names_for(["1", "2"], {"1": "体育"}) == ["体育", ""]
    assert class_names_for(["sport", "tech"], {"sport": "体育"}) == ["体育", "tech"]
    with pytest.raises(InputError, match="labels 'sport' and 'tech' are both called 'tech'"):
        check_class_names({"sport": "tech"}, ["sport", "tech"])
    check_class_names({"c": "other"}, ["A", "a", "c"])  # labels that differ in case alone are as the user has them


def test_sources_are_called_by_the_labels_that_say_something_of_domains_of_more_than_two_classes() -> None:
    topics = Domain.from_records(TEXTS[:3], ["card_payment", "7", "taxes"], name="bank")
    held_out = Domain.from_records(TEXTS[3:4], ["loans"], name="bank")
    polarity = Domain.from_records(TEXTS[:2], ["positive", "negative"], name="shop")
    named = names_of_domains([topics, held_out, polarity], reads=lambda name: name != "taxes")
    assert named == {"card_payment": "card payment", "loans": "loans"}


def test_a_blend_needs_the_pretrained_weights(learner: Learner) -> None:
    learner.pretrained = None
    with pytest.raises(InputError, match=r"blend=0\.25 needs the pretrained weights"), blended(learner, 0.25):
        pass
    with pytest.raises(InputError, match=r"blend=0\.5 needs the pretrained weights"):
        adapt(learner, TEXTS, CLASSES * 2, blend=0.5)
    assert adapt(learner, TEXTS, CLASSES * 2).metadata["start"]["blend"] == 1.0


def test_names_on_the_command_line_are_pairs() -> None:
    assert parse_class_names(["sports=体育", "a=b=c", "c="]) == {"sports": "体育", "a": "b=c", "c": ""}
    with pytest.raises(InputError, match=r"class_names must be label=name, such as sports=体育, or .* got 'sports'"):
        EvaluateSettings(class_names=("sports",))
    with pytest.raises(InputError, match=r"target_labels must be label=name, .* got 'sports='"):
        parse_class_names(["sports="], "target_labels")
    with pytest.raises(InputError, match="names=False and class_names contradict each other"):
        EvaluateSettings(names=False, class_names=("sports=体育",))
    with pytest.raises(InputError, match="the ablations leave out names themselves"):
        EvaluateSettings(names=False, methods=("maml", "ablations"))
    with pytest.raises(InputError, match="class_names gives label 'a' two names, 'x' and 'y'"):
        EvaluateSettings(class_names=("a=x", "a=y"))


def test_names_may_stand_in_a_file_with_several_descriptions_of_a_label(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text("label,name\nsports,体育\ntech,科技\nsports,足球和篮球\n", encoding="utf-8")
    names = {"sports": "体育\n足球和篮球", "tech": "科技", "other": ""}
    assert parse_class_names([str(file), "other="]) == names
    settings = EvaluateSettings(class_names=(str(file), "other="))
    file.unlink()  # what an evaluation was made with does not depend on what the file says later
    assert parse_class_names(settings.class_names) == names
    with pytest.raises(InputError, match=r"class_names names the file .*names\.csv, which does not exist"):
        parse_class_names([str(file)])
    file.write_text("label,name\na=b,体育\n", encoding="utf-8")
    with pytest.raises(InputError, match="has a label with an equals sign, 'a=b'"):
        parse_class_names([str(file)])
    (tmp_path / "a=b").mkdir()
    file.rename(tmp_path / "a=b" / "names.csv").write_text("label,name\nsports,体育\n", encoding="utf-8")
    assert parse_class_names([str(tmp_path / "a=b" / "names.csv")]) == {"sports": "体育"}
    file.write_text("label,description\nsports,体育\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"names\.csv has no column 'name'"):
        parse_class_names([str(file)])


def test_several_descriptions_count_as_their_mean(learner: Learner) -> None:
    both = encoded_names(learner.encode, [f"{TEXTS[0]}\n\n {TEXTS[1]} ", TEXTS[2]])
    apart = learner.encode(TEXTS[:3])
    torch.testing.assert_close(both, torch.stack([apart[:2].mean(0), apart[2]]))
    learner.source_classes = remember_source_classes(learner, [Domain.from_records(TEXTS, KNOWN * 2, name="source")])
    row = learner.source_classes.names.index(KNOWN[1])
    assert source_rows(learner, CLASSES, [f"x\n{KNOWN[1]}", "", ""]) == [[row], [], []]


@pytest.mark.parametrize("counts", [(1, 60), (2, 20), (3, 30, 5)])
def test_a_class_of_few_texts_is_found_as_often_as_a_large_one(counts: tuple[int, ...]) -> None:
    """Classes of unit variance in 64 dimensions: recall is even on average, as with equal numbers of texts."""
    generator, ways, recalls = torch.Generator().manual_seed(0), len(counts), []
    labels = torch.arange(ways).repeat_interleave(torch.tensor(counts))
    for _ in range(60):
        means = 0.5 * torch.randn(ways, 64, generator=generator)
        features = means[labels] + torch.randn(len(labels), 64, generator=generator)
        layer = CentredFeatures(features, labels, ways).layer(torch.zeros(ways, 64), 4.0)
        queries = means.repeat_interleave(20, 0) + torch.randn(20 * ways, 64, generator=generator)
        right = layer.logits(queries).argmax(1) == torch.arange(ways).repeat_interleave(20)
        recalls.append(right.view(ways, 20).float().mean(1))
    recall = torch.stack(recalls).mean(0)  # without the correction .09 and 1.00 at 1 + 60
    assert recall.min() > 0.6 and recall.max() - recall.min() < 0.2


def test_equal_classes_share_no_noise_and_a_layer_can_be_copied() -> None:
    features, labels = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat(4)
    layer = CentredFeatures(features, labels, 3).layer(torch.zeros(3, 8), 4.0)
    torch.testing.assert_close(layer.bias, -layer.weight @ layer.centre)
    twin = copy.deepcopy(layer)
    assert twin.centre_variance == layer.centre_variance > 0 and torch.equal(twin.centre, layer.centre)


# ---------------------------------------------------------------- unlabelled texts
def test_unlabelled_texts_are_soft_k_means() -> None:
    """Written out in numpy: each text is shared out by the softmax of its cosines, five times over."""
    generator = torch.Generator().manual_seed(0)
    features, others = torch.randn(6, 5, generator=generator), torch.randn(9, 5, generator=generator)
    known, labels, scale = torch.randn(3, 5, generator=generator), torch.tensor([0, 1, 2] * 2), 4.0
    found = CentredFeatures(features, labels, 3, unlabelled=others).soft_k_means(known, others, scale)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    z, u = (unit((x - others.mean(0)).double().numpy()) for x in (features, others))
    base = known.double().numpy() + np.stack([z[labels.numpy() == c].sum(0) for c in range(3)])
    sums = np.zeros_like(base)
    for _ in range(5):
        logits = scale * u @ unit(base + sums).T
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        sums = np.stack([(shares[:, c : c + 1] * u).sum(0) for c in range(3)]) * 6 / 9
    np.testing.assert_allclose(found.numpy(), sums, atol=1e-5)


def test_unlabelled_texts_move_the_prototypes_to_where_they_lie() -> None:
    """Two classes on a circle; the one labelled text of each lies at its edge."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.cat([torch.randn(200, generator=generator) * 0.3 + middle for middle in (0.5, 2.6)])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    truth = torch.arange(2).repeat_interleave(200)
    support = torch.tensor([[1.0, 0.0], [0.4, 0.92]])  # the second is nearly between the classes
    labels, nothing = torch.arange(2), torch.zeros(2, 2)

    def accuracy(space: CentredFeatures, known: torch.Tensor) -> float:
        return float((space.layer(known, 8.0).logits(points).argmax(1) == truth).float().mean())

    plain, wide = CentredFeatures(support, labels, 2), CentredFeatures(support, labels, 2, unlabelled=points)
    assert accuracy(wide, wide.soft_k_means(nothing, points, 8.0)) > accuracy(plain, nothing) + 0.05


def test_fewer_unlabelled_texts_than_labelled_ones_count_no_more_than_these() -> None:
    generator = torch.Generator().manual_seed(0)
    features, one, labels = (
        torch.randn(6, 5, generator=generator),
        torch.randn(1, 5, generator=generator),
        [0, 1, 2] * 2,
    )
    plain, space = (
        CentredFeatures(features, torch.tensor(labels), 3),
        CentredFeatures(features, torch.tensor(labels), 3, unlabelled=one),
    )
    torch.testing.assert_close(space.centre, plain.centre + (one[0] - plain.centre) / 6)
    assert float(space.soft_k_means(torch.zeros(3, 5), one, 4.0).norm(dim=1).sum()) == pytest.approx(1.0, abs=1e-5)


def test_adapt_takes_unlabelled_texts(learner: Learner) -> None:
    plain = adapt(learner, TEXTS, CLASSES * 2)
    others = [text + text for text in TEXTS]
    more = adapt(learner, TEXTS, CLASSES * 2, unlabelled=[*others, *others, *TEXTS])
    assert (plain.metadata["unlabelled"], more.metadata["unlabelled"]) == (0, 6)  # each once, and no labelled one
    assert not torch.allclose(plain.probabilities(TEXTS), more.probabilities(TEXTS), atol=1e-3)
    support = support_of(TEXTS, CLASSES * 2, CLASSES)
    start = choose_start(learner, support, CLASSES, readable_names(CLASSES))
    assert start
    with blended(learner, start.blend):
        features, far = learner.encode(TEXTS), learner.encode(others)
        space = CentredFeatures(learner.encode(support.texts), torch.tensor(support.labels), 3, unlabelled=far)
        layer = space.layer(
            start.class_priors + space.soft_k_means(start.class_priors, far, start.scale), start.calibrated_scale
        )
    torch.testing.assert_close(more.probabilities(TEXTS), layer.logits(features).softmax(1), rtol=0.0, atol=1e-4)
    for wrong in ("one text", ["", "b"]):
        with pytest.raises(
            InputError, match=r"of unlabelled must be a non-empty string|unlabelled must be a list of strings"
        ):
            adapt(learner, TEXTS, CLASSES * 2, unlabelled=wrong)


def test_a_support_and_its_double_choose_the_same_start(learner: Learner) -> None:
    once, twice = (adapt(learner, TEXTS * n, KNOWN * 2 * n) for n in (1, 2))
    torch.testing.assert_close(once.probabilities(TEXTS), twice.probabilities(TEXTS))


@pytest.mark.parametrize("others", [1, 2])
def test_few_unlabelled_texts_do_not_overrule_names(learner: Learner, others: int) -> None:
    names = {"a": "球队", "b": "股票"}
    more = adapt(learner, [], [], class_names=names, unlabelled=[TEXTS[2] + "。" * i for i in range(others)])
    assert more.probabilities(TEXTS).max() < 0.999


def test_texts_and_labels_go_together(learner: Learner) -> None:
    with pytest.raises(InputError, match="1 texts but 2 labels: each text needs one label"):
        adapt(learner, ["a"], ["x", "y"])
    with pytest.raises(InputError, match="epochs=2 needs labelled texts"):
        adapt(learner, [], [], epochs=2, class_names={"a": "球队", "b": "股票"})


def test_names_in_another_script_than_the_texts_are_pointed_out(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    adapt(learner, TEXTS, ["a b", "c d", "球队"] * 2, class_names={"a b": "aa", "c d": "bb"})
    shown = "in another script than the names of these labels: 'a b', 'c d'; names in the language"
    assert shown in caplog.text
    caplog.clear()
    adapt(learner, TEXTS, KNOWN * 2, class_names=dict(zip(KNOWN, ["球队", "股票", "汽车"], strict=True)))
    assert "another script" not in caplog.text
