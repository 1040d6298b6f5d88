"""Learners that are saved without their encoder, and the learners in the package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_encoder
from safetensors.torch import load_file, save_file

from metatext import Domain, FewShotClassifier, InputError, Learner
from metatext.encoders.lora import base_state, merged_state
from metatext.learners.learner import METADATA
from metatext.learners.weight_blending import BLENDS, blended, remember_source_classes

TEXTS = ["球队比赛", "股票基金", "汽车轿车", "球迷主场", "银行利率", "试驾油耗"]
HUB_ID = "someone/tiny"


@pytest.fixture
def learner(tiny_bert: Path) -> Learner:
    """A trained learner whose encoder is on the Hub, as if it had been loaded from there."""
    learner = Learner.from_pretrained(tiny_bert, scope="lora", lora_rank=2, inner_steps=0, text_prefix="query: ")
    generator = torch.Generator().manual_seed(3)
    for name, p in learner.encoder.named_parameters():
        if "lora_" in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    learner.source_classes = remember_source_classes(learner, [Domain.from_records(TEXTS, list("abc") * 2, name="d")])
    learner.base_model, learner.base_on_hub, learner.meta_trained = HUB_ID, True, True
    return learner


@pytest.fixture
def saved(learner: Learner, tmp_path: Path) -> Path:
    learner.save_pretrained(tmp_path / "learner")
    return tmp_path / "learner"


def test_a_learner_is_saved_without_its_encoder_and_loaded_with_it(
    learner: Learner, saved: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["learner.safetensors", METADATA]
    tensors = load_file(saved / "learner.safetensors")
    assert {name for name, value in tensors.items() if value.dtype == torch.float16} == {
        name for name, value in tensors.items() if "lora_" in name or name.startswith("source_")
    }
    again = Learner.from_pretrained(saved, encoder=tiny_bert)
    assert (again.base_model, again.base_on_hub, again.meta_trained) == (HUB_ID, True, True)
    for (name, p), before in zip(again.named_parameters(), learner.parameters(), strict=True):
        assert torch.equal(p, before.half().float() if "lora_" in name else before), name
    assert again.source_classes and learner.source_classes and again.source_classes.names == ["a", "b", "c"]
    for before, after in zip(learner.source_classes[1:], again.source_classes[1:], strict=True):
        assert before is not None and after is not None and torch.equal(before.half().float(), after)
    for share in BLENDS:  # the blends need no second encoder, and the prefix is there
        with blended(learner, share), blended(again, share):
            torch.testing.assert_close(again.encode(TEXTS), learner.encode(TEXTS), rtol=0, atol=2e-2)
    again.save_pretrained(tmp_path / "again")
    for file in ("learner.safetensors", METADATA):
        assert (tmp_path / "again" / file).read_bytes() == (saved / file).read_bytes()


def test_a_learner_whose_encoder_is_a_folder_keeps_it(learner: Learner, tmp_path: Path) -> None:
    learner.base_on_hub = False
    learner.save_pretrained(tmp_path / "whole")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "whole").iterdir()}
    again = Learner.from_pretrained(tmp_path / "whole")
    assert not again.base_on_hub and torch.equal(again.encode(TEXTS), learner.encode(TEXTS))
    with pytest.raises(InputError, match=r"whole has an encoder of its own: leave out the encoder 'other'"):
        Learner.from_pretrained(tmp_path / "whole", encoder="other")


def test_an_encoder_from_the_hub_is_remembered_with_its_commit(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    (tmp_path / commit).symlink_to(tiny_bert)
    asked = []

    def download(name: str, revision: str | None = None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    Learner.from_pretrained(HUB_ID, scope="lora").save_pretrained(tmp_path / "learner")
    assert not (tmp_path / "learner" / "config.json").exists()
    again = Learner.from_pretrained(tmp_path / "learner")
    assert (again.base_model, again.revision) == (HUB_ID, commit) and asked == [(HUB_ID, None), (HUB_ID, commit)]
    Learner.from_pretrained(HUB_ID).save_pretrained(tmp_path / "full")  # without adapters, all weights are its own
    assert (tmp_path / "full" / "model.safetensors").exists()


def test_other_adapters_on_a_trained_learner_keep_its_encoder(
    learner: Learner, tiny_bert: Path, tmp_path: Path
) -> None:
    full = Learner.from_pretrained(tiny_bert)
    full.encoder.get_input_embeddings().weight.data += 0.1
    full.base_model, full.base_on_hub = HUB_ID, True
    full.save_pretrained(tmp_path / "full")
    adapted = Learner.from_pretrained(tmp_path / "full", scope="lora")
    assert not adapted.base_on_hub and adapted.pretrained and all("lora_B" in name for name in adapted.pretrained)
    adapted.save_pretrained(tmp_path / "adapted")
    assert torch.equal(Learner.from_pretrained(tmp_path / "adapted").encode(TEXTS), full.encode(TEXTS))


def test_learners_of_the_first_version_still_load(learner: Learner, tiny_bert: Path, tmp_path: Path) -> None:
    """That version named adapters as peft does, and saved the encoder twice, in float32 and float16."""
    learner.base_on_hub = False
    learner.save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "learner.safetensors"
    renamed = {re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", n): v for n, v in load_file(path).items()}
    assert sum("default" in name for name in renamed) == 8
    save_file(renamed, path)
    first = Learner.from_pretrained(tiny_bert, scope="lora", lora_rank=2)
    before = {
        n.replace(".weight", ".default.weight"): p.half() for n, p in first.encoder.named_parameters() if "lora" in n
    }
    save_file(before, tmp_path / "old" / "pretrained.safetensors")
    again = Learner.from_pretrained(tmp_path / "old")
    assert torch.equal(again.encode(TEXTS), learner.encode(TEXTS))
    with blended(again, 0.5), blended(learner, 0.5):
        assert torch.equal(again.encode(TEXTS), learner.encode(TEXTS))


@pytest.mark.parametrize("share", BLENDS)
def test_a_classifier_is_plain_at_each_blend(saved: Path, tiny_bert: Path, tmp_path: Path, share: float) -> None:
    from transformers import AutoModelForSequenceClassification, pipeline

    classifier = FewShotClassifier(saved, blend=share, encoder=tiny_bert).fit(TEXTS, ["x", "y", "z"] * 2)
    classifier.save_pretrained(tmp_path / "model")
    learner = Learner.from_pretrained(saved, encoder=tiny_bert)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    with blended(learner, share), torch.no_grad():
        expected = merged_state(learner.encoder)
    matrix = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(model.bert.state_dict()[matrix], expected[matrix], rtol=0, atol=1e-6)
    moved = (expected[matrix] - base_state(learner.encoder)[matrix]).abs().max()
    assert (moved > 1e-2) == (share > 0)
    scores = pipeline("text-classification", str(tmp_path / "model"), top_k=None)(TEXTS)
    for row, own in zip(scores, classifier.predict_proba(TEXTS), strict=True):
        assert [r["score"] for r in sorted(row, key=lambda r: r["label"])] == pytest.approx(list(own), abs=1e-5)
    assert json.loads((tmp_path / "model" / METADATA).read_text())["base_model"] == HUB_ID


def test_without_the_encoder_the_message_names_it(saved: Path) -> None:
    sentence = rf"learner needs the encoder {HUB_ID}, which is neither in the cache .* --encoder FOLDER"
    with pytest.raises(InputError, match=sentence):
        Learner.from_pretrained(saved)


def test_another_encoder_is_refused(
    saved: Path, learner: Learner, tmp_path: Path, encoder_of: Callable[[str], Path]
) -> None:
    deeper = make_encoder(tmp_path / "deeper", layers=3)
    with pytest.raises(
        InputError, match=r"trained on someone/tiny \(bert, 2 layers, 32 wide\), but .*deeper is another"
    ):
        Learner.from_pretrained(saved, encoder=deeper)
    with pytest.raises(InputError, match=r"but .* is another encoder \(electra, 2 layers, 32 wide\)"):
        Learner.from_pretrained(saved, encoder=encoder_of("electra"))
    with pytest.raises(InputError, match=r"holds no model: there is no config\.json"):
        Learner.from_pretrained(saved, encoder=saved.parent)
    learner.base_on_hub = False
    learner.save_pretrained(tmp_path / "whole")
    with pytest.raises(InputError, match=r"whole was written by metatext, but .* needs the plain encoder someone/tiny"):
        Learner.from_pretrained(saved, encoder=tmp_path / "whole")
    with pytest.raises(InputError, match="this learner has its encoder: leave out the encoder"):
        FewShotClassifier(learner, encoder=tmp_path).fit(TEXTS, list("ab") * 3)


def with_vocabulary(folder: Path, rename: Callable[[str], str]) -> None:
    """Changes the tokens in a tokenizer file; special tokens stay."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {t if t.startswith("[") else rename(t): i for t, i in vocabulary.items()}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def test_another_vocabulary_is_refused_and_a_larger_one_is_not(saved: Path, tmp_path: Path) -> None:
    other = make_encoder(tmp_path / "other")
    with_vocabulary(other, lambda token: token if ord(token) % 2 else token + "##")
    with pytest.raises(InputError, match=r"other has another vocabulary: it lacks \d+ of 64 tokens, among them '.'"):
        Learner.from_pretrained(saved, encoder=other)
    # The adapters were trained with a part of the vocabulary, as the Chinese learner in the package was.
    metadata = json.loads((saved / METADATA).read_text(encoding="utf-8"))
    tokens = metadata["base_encoder"]["tokens"]
    metadata["base_encoder"]["tokens"] = [token for token in tokens if ord(token) % 2]
    (saved / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    assert 0 < len(metadata["base_encoder"]["tokens"]) < len(tokens)
    Learner.from_pretrained(saved, encoder=other)
