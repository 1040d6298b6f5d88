"""`adapt` reads texts at a length of its own, and so does the classifier that it saves."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest
import torch
from conftest import make_encoder
from transformers import AutoTokenizer, pipeline

from metatext import FewShotClassifier, InputError, Learner
from metatext.adaptation import adapt as adapt_module
from metatext.adaptation.adapt import adapt
from metatext.adaptation.inference import load_classifier, predict
from metatext.hub.model_folder import METADATA

SIGNAL = {"a": "球队比赛进冠军教练", "b": "股票基金银行利率投"}
FILLER = "美食火锅餐厅味道烹饪甜点早辣椒旅游景点酒店海滩机古镇行程导"


def late_texts(seed: int, per_class: int) -> tuple[list[str], list[str]]:
    """Texts of 100 to 130 characters whose first 70 do not depend on the class."""
    rng = random.Random(seed)
    rows = [
        ("".join(rng.choices(FILLER, k=70)) + "".join(rng.choices(SIGNAL[label], k=rng.randint(30, 60))), label)
        for label in SIGNAL
        for _ in range(per_class)
    ]
    return [text for text, _ in rows], [label for _, label in rows]


TEXTS, LABELS = late_texts(0, 6)
TEST_TEXTS, TEST_LABELS = late_texts(1, 50)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """A learner that reads 64 tokens of an encoder that has 300 positions."""
    encoder = make_encoder(tmp_path_factory.mktemp("encoder"), positions=300)
    return Learner.from_pretrained(encoder, inner_steps=0, max_length=64)


def accuracy(predicted: list[str]) -> float:
    return sum(a == b for a, b in zip(predicted, TEST_LABELS, strict=True)) / len(TEST_LABELS)


def test_what_stands_after_the_length_of_meta_training_is_read(learner: Learner) -> None:
    classifier = FewShotClassifier(learner).fit(TEXTS, LABELS)
    assert accuracy(list(classifier.predict(TEST_TEXTS))) > 0.95
    cut = FewShotClassifier(learner, max_length=64).fit(TEXTS, LABELS)
    assert accuracy(list(cut.predict(TEST_TEXTS))) < 0.7  # the class cannot be seen there


def test_the_inner_loop_reads_them_too(learner: Learner) -> None:
    trained = Learner.from_pretrained(learner.base_model, head="linear", classes=("a", "b"), max_length=64)
    for max_length, low, high in ((None, 0.9, 1.0), (64, 0.3, 0.7)):
        adapted = adapt(trained, TEXTS, LABELS, steps=10, max_length=max_length)
        classes = adapted.probabilities(TEST_TEXTS).argmax(1).tolist()
        assert low <= accuracy([adapted.classes[i] for i in classes]) <= high


def test_the_saved_classifier_cuts_where_it_says(
    learner: Learner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for max_length, expected in ((None, 256), (100, 100)):
        folder = tmp_path / str(expected)
        adapted = adapt(learner, TEXTS, LABELS, max_length=max_length)
        adapted.probabilities(["球" * 500])
        adapted.save_pretrained(folder)
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        assert metadata["max_length"] == AutoTokenizer.from_pretrained(folder).model_max_length == expected
        saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert saved["truncation"]["max_length"] == expected
        assert metadata["settings"]["max_length"] == 64  # of meta-training

        model, tokens, _ = load_classifier(folder)
        start = "美" * (expected - 12)  # the last ten tokens are read, and no further one
        texts = [start + end for end in ("球" * 10, "股" * 10, "股" * 10 + "球" * 900)]
        probabilities = predict(model, tokens, texts)
        torch.testing.assert_close(probabilities, adapted.probabilities(texts), rtol=1e-4, atol=1e-5)
        assert torch.equal(probabilities[1], probabilities[2])
        assert (probabilities[0].log() - probabilities[1].log()).abs().max() > 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            classify = pipeline("text-classification", model=str(folder), device="cpu", truncation=True, top_k=None)
            for row, answer in zip(probabilities, classify(texts), strict=True):
                scores = {entry["label"]: entry["score"] for entry in answer}
                assert [scores[name] for name in ("a", "b")] == pytest.approx(row.tolist(), abs=1e-4)
    assert "longer than" not in capfd.readouterr().err  # a message of transformers, which is no Python warning


def test_the_learner_keeps_its_own_length(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    own, features = learner.tokens, learner.encode(TEST_TEXTS[:4])
    adapted = adapt(learner, TEXTS, LABELS, epochs=1, unlabelled=TEST_TEXTS[:8])

    def unchanged() -> bool:
        same = learner.tokens is own and (own.max_length, own.tokenizer.model_max_length) == (64, 64)
        return same and learner.settings.max_length == 64 and torch.equal(learner.encode(TEST_TEXTS[:4]), features)

    assert unchanged()
    before = adapted.probabilities(TEST_TEXTS)
    other = adapt(learner, TEXTS, LABELS, max_length=80)
    assert (adapted.tokens.tokenizer.model_max_length, other.tokens.tokenizer.model_max_length) == (256, 80)
    assert unchanged() and torch.equal(adapted.probabilities(TEST_TEXTS), before)
    monkeypatch.setattr(adapt_module, "choose_start", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapt(learner, TEXTS, LABELS)
    assert unchanged()


def test_the_order_of_the_texts_does_not_matter(learner: Learner) -> None:
    forth = adapt(learner, TEXTS, LABELS)
    back = adapt(learner, TEXTS[::-1], LABELS[::-1])
    assert forth.tokens.max_length == back.tokens.max_length
    torch.testing.assert_close(forth.probabilities(TEST_TEXTS), back.probabilities(TEST_TEXTS), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("max_length", "message"), [(301, "at most 300, the positions"), (4, "at least 8, got 4")])
def test_a_length_that_the_encoder_cannot_read_is_refused(learner: Learner, max_length: int, message: str) -> None:
    with pytest.raises(InputError, match=f"max_length must be {message}"):
        FewShotClassifier(learner, max_length=max_length).fit(TEXTS, LABELS)
