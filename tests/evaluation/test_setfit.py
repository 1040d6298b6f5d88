"""SetFit: its pairs, what training on them does, and its answers."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import make_domain

from metatext import Learner
from metatext.evaluation.setfit import contrastive_pairs, pair_loss, setfit, train_on_pairs
from metatext.evaluation.support_draws import make_draws


def test_pairs_are_all_pairs_and_as_many_of_each_kind() -> None:
    labels = ["a", "b", "a", "b", "b", "c"]
    pairs, same = contrastive_pairs(labels, torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, pairs.tolist()))
    every = {(i, j) for i in range(6) for j in range(i, 6)}
    alike = {(i, j) for i, j in every if labels[i] == labels[j]}
    assert set(counts) == every and len(alike) == 3 + 6 + 1
    assert [labels[i] == labels[j] for i, j in pairs.tolist()] == same.bool().tolist()
    assert len(pairs) == 2 * 11 and same.sum() == 11  # 21 pairs, 10 alike: one of these twice
    assert sorted(counts[pair] for pair in alike) == [1] * 9 + [2]
    assert all(counts[pair] == 1 for pair in every - alike)
    again, other = (contrastive_pairs(labels, torch.Generator().manual_seed(seed))[0] for seed in (0, 1))
    assert torch.equal(again, pairs) and not torch.equal(other, pairs)


def test_more_pairs_alike_than_not_repeat_the_others() -> None:
    pairs, same = contrastive_pairs(["a", "a", "a", "b"], torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, pairs.tolist()))
    assert len(pairs) == 14 and same.sum() == 7  # 6 + 1 alike, 3 not
    assert sorted(counts[i, 3] for i in range(3)) == [2, 2, 3]


def test_loss_is_that_of_the_cosines(tiny_bert: Path) -> None:
    model = Learner.from_pretrained(tiny_bert)
    texts = ["球队比赛", "球队进球教练", "股票"]
    vectors = []
    for text in texts:  # one by one, in plain transformers
        tokens = model.tokenizer(text, return_tensors="pt")
        states = model.encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        vectors.append(states[0].mean(0).tolist())

    def cosine(i: int, j: int) -> float:  # of vectors less their mean: the correlation
        return statistics.correlation(vectors[i], vectors[j])

    expected = ((cosine(2, 0) - 0) ** 2 + (cosine(0, 1) - 1) ** 2 + (cosine(1, 2) - 0) ** 2 + (1 - 1) ** 2) / 4
    pairs, same = torch.tensor([[2, 0], [0, 1], [1, 2], [1, 1]]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert pair_loss(model, texts, pairs, same).item() == pytest.approx(expected, rel=1e-4)


def test_training_draws_texts_of_a_class_together(tiny_bert: Path) -> None:
    (draw, _) = make_draws(make_domain(2), [4], 2)
    texts, labels = zip(*draw.support, strict=True)
    model = Learner.from_pretrained(tiny_bert)

    def gap() -> float:
        vectors = torch.nn.functional.normalize(model.encode(texts))
        same = torch.tensor([[a == b for a in labels] for b in labels])
        cosines = vectors @ vectors.T
        return float(cosines[same].mean() - cosines[~same].mean())

    before = gap()
    train_on_pairs(model, texts, labels, lr=1e-3)
    assert gap() > before + 0.2


def test_steps_are_at_most_as_many_as_asked(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """13 x 2 texts are 312 pairs of different labels, and the 39 of the same repeated to as many."""
    sizes: list[int] = []
    monkeypatch.setattr(
        "metatext.evaluation.setfit.pair_loss", lambda model, texts, pairs, same: _noted(model, sizes, pairs)
    )
    texts, labels = [f"text {i}" for i in range(26)], [f"label {i // 2}" for i in range(26)]
    for asked, steps in ((None, 39), (10, 10), (100, 39)):
        sizes.clear()
        train_on_pairs(Learner.from_pretrained(tiny_bert), texts, labels, asked)
        assert len(sizes) == steps and set(sizes) == {16}


def _noted(model: Learner, sizes: list[int], pairs: torch.Tensor) -> torch.Tensor:
    sizes.append(len(pairs))
    return sum(p.sum() for p in model.encoder.parameters())  # type: ignore[return-value]


def test_setfit_learns_and_leaves_its_start_alone(tiny_bert: Path) -> None:
    start = Learner.from_pretrained(tiny_bert)
    before = {name: p.detach().clone() for name, p in start.named_parameters()}
    (draw, _) = make_draws(make_domain(2), [3], 2, test_size=60)
    texts, labels = zip(*draw.support, strict=True)
    queries, truth = zip(*draw.test, strict=True)
    found = setfit(start)(texts, labels)(queries)
    assert sum(map(str.__eq__, found.labels, truth)) / len(truth) > 0.5
    assert found.probabilities is not None and found.probabilities.shape == (len(queries),)
    assert setfit(start)(texts, labels)(queries).labels == found.labels
    assert all(torch.equal(p, before[name]) for name, p in start.named_parameters())
