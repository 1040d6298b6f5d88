"""The exported transformers classifier computes the learner's function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, make_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BartConfig, BertConfig, GPT2Config, pipeline

from metatext import FewShotClassifier, InputError, Learner
from metatext.encoders.architectures import check_supported
from metatext.encoders.sequence_classifier import to_classifier


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classifier_computes_the_learners_logits(
    encoder_of: Callable[[str], Path], tmp_path: Path, architecture: str, pooling: str
) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture), pooling=pooling)
    texts = [row["text"][: 3 + i] for i, row in enumerate(make_rows(0, 2))]  # of many lengths, so that padding matters
    torch.manual_seed(1)
    weight, bias = torch.randn(3, 32), torch.randn(3)
    expected = learner.encode(texts) @ weight.T + bias
    model = to_classifier(learner.encoder, pooling, (weight, bias), ["a", "b", "c"])
    model.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    (batch,) = [learner.tokenizer(texts, padding=True, return_tensors="pt")]
    with torch.no_grad():
        logits = model(**batch).logits
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "config", [GPT2Config(), BartConfig(), BertConfig(is_decoder=True)], ids=["gpt2", "bart", "bert"]
)
def test_unsupported_architectures_are_refused_by_name(config) -> None:
    with pytest.raises(InputError, match=f"my-model is a '{config.model_type}' model.*supported are bert"):
        check_supported(config, "my-model")


def test_prefix_travels_with_the_exported_tokenizer(tiny_bert: Path, tmp_path: Path) -> None:
    rows = make_rows(0, 3)
    texts, labels = [r["text"] for r in rows], [r["label"] for r in rows]
    plain, prefixed = Learner.from_pretrained(tiny_bert), Learner.from_pretrained(tiny_bert, text_prefix="query: ")
    assert not torch.allclose(plain.encode(texts), prefixed.encode(texts), atol=1e-2)
    torch.testing.assert_close(plain.encode(["query: " + t for t in texts]), prefixed.encode(texts))
    classifier = FewShotClassifier(prefixed).fit(texts, labels)
    classifier.save_pretrained(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    answers = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "model"))
    assert [a["label"] for a in answers(texts)] == list(classifier.predict(texts))
    prefixed.save_pretrained(tmp_path / "learner")
    again = Learner.from_pretrained(tmp_path / "learner")
    torch.testing.assert_close(again.encode(texts), prefixed.encode(texts))
