"""At which length a learner cuts texts: its own in meta-training, that of the encoder afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_encoder
from transformers import AutoTokenizer

from metatext import InputError, Learner
from metatext.encoders.tokenization import load_tokenizer
from metatext.hub.model_folder import METADATA
from metatext.learners.text_length import adaptation_length, encoder_length, reading_at


@pytest.fixture(scope="module")
def long_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 402 positions, whose tokenizer states 400."""
    return make_encoder(tmp_path_factory.mktemp("long"), positions=402)


@pytest.mark.parametrize(("trained", "default"), [(16, 256), (256, 256), (300, 300), (999, 402)])
def test_the_default_is_that_of_the_encoder_up_to_a_cap(
    long_encoder: Path, tmp_path: Path, trained: int, default: int
) -> None:
    learner = Learner.from_pretrained(long_encoder, max_length=trained)
    assert (encoder_length(learner), adaptation_length(learner)) == (256, default)
    learner.save_pretrained(tmp_path / "learner")  # its tokenizer states the length of meta-training
    assert AutoTokenizer.from_pretrained(tmp_path / "learner").model_max_length == min(trained, 402)
    again = Learner.from_pretrained(tmp_path / "learner")
    assert (again.tokens.max_length, adaptation_length(again)) == (min(trained, 402), default)


def test_what_the_tokenizer_or_the_sentence_encoder_states_is_kept_to(tiny_bert: Path, tmp_path: Path) -> None:
    assert adaptation_length(Learner.from_pretrained(tiny_bert, max_length=16)) == 64  # of 66 positions
    encoder = make_encoder(tmp_path / "encoder", positions=402)
    stated = encoder / "sentence_bert_config.json"
    for content, length in (('{"max_seq_length": 40}', 40), ('{"max_seq_length": null}', 400), ("{", 400), ("[]", 400)):
        stated.write_text(content, encoding="utf-8")
        for prefix in ("", "query: "):
            assert load_tokenizer(encoder, prefix).model_max_length == length
    stated.write_text('{"max_seq_length": 40}', encoding="utf-8")
    learner = Learner.from_pretrained(encoder, max_length=16)
    learner.save_pretrained(tmp_path / "learner")
    assert adaptation_length(learner) == adaptation_length(Learner.from_pretrained(tmp_path / "learner")) == 40
    assert adaptation_length(learner, 300) == 300  # an explicit length may go up to the positions


def test_a_learner_of_an_earlier_version_reads_what_its_encoder_has_positions_for(
    long_encoder: Path, tmp_path: Path
) -> None:
    Learner.from_pretrained(long_encoder, max_length=16).save_pretrained(tmp_path / "learner")
    note = tmp_path / "learner" / METADATA
    metadata = json.loads(note.read_text(encoding="utf-8"))
    del metadata["encoder_max_length"]
    note.write_text(json.dumps(metadata), encoding="utf-8")
    assert adaptation_length(Learner.from_pretrained(tmp_path / "learner")) == 256


@pytest.mark.parametrize(("architecture", "most"), [("bert", 66), ("roberta", 65), ("xlm-roberta", 65)])
def test_an_explicit_length_must_fit_the_encoder(
    encoder_of: Callable[[str], Path], architecture: str, most: int
) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture), max_length=16)
    assert (adaptation_length(learner, 8), adaptation_length(learner, most)) == (8, most)
    with pytest.raises(InputError, match=f"max_length must be at most {most}, the positions of the encoder, got 99"):
        adaptation_length(learner, 99)
    with pytest.raises(InputError, match="max_length must be at least 8, got 7"):
        adaptation_length(learner, 7)


def test_the_learner_has_its_own_length_again(long_encoder: Path) -> None:
    learner = Learner.from_pretrained(long_encoder, max_length=16)
    text, own = "球" * 100, learner.tokens
    short = learner.encode([text])
    with reading_at(learner, 60):
        assert len(learner.tokens.ids([text])[0]) == 60 and not torch.equal(learner.encode([text]), short)
        assert learner.tokenizer.model_max_length == 60
    assert learner.tokens is own and learner.tokenizer.model_max_length == 16
    assert torch.equal(learner.encode([text]), short)
    with pytest.raises(KeyboardInterrupt), reading_at(learner, 60):
        raise KeyboardInterrupt
    assert learner.tokens is own


def test_texts_that_were_cut_are_those_longer_than_the_limit(long_encoder: Path) -> None:
    tokens = Learner.from_pretrained(long_encoder, max_length=16).tokens
    assert tokens.count_cut(["球" * n for n in (3, 13, 14, 15, 15, 90)]) == 3  # two tokens are marks
    assert tokens.count_cut([]) == tokens.count_cut(["球"]) == 0
    assert tokens.tokenizer.backend_tokenizer.truncation["max_length"] == 16  # which is saved with it


def padded_tokens(learner: Learner, texts: list[str], **options: Any) -> int:
    batches = learner.tokens.batches(texts, 64, torch.device("cpu"), **options)
    return sum(batch.input_ids.numel() for batch in batches)


@pytest.mark.parametrize("packed", [True, False])
def test_short_texts_cost_the_same_at_any_length(long_encoder: Path, packed: bool) -> None:
    learner = Learner.from_pretrained(long_encoder, max_length=64)
    texts = ["球" * (1 + 7 * i % 61) for i in range(150)]
    before = padded_tokens(learner, texts, packed=packed)
    with reading_at(learner, 256):
        assert padded_tokens(learner, texts, packed=packed) == before
        longer = [*texts, "球" * 250]  # one long text costs itself, not the padding of all others
        assert padded_tokens(learner, longer, packed=packed) < 1.1 * (before + 252)
