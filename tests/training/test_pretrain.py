"""Continued pre-training: the encoder learns its texts, and stays one that everything else takes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_domain
from transformers import AutoModelForMaskedLM, AutoTokenizer

from metatext import Learner
from metatext.cli.main import main
from metatext.errors import InputError
from metatext.training.pretrain import pretrain
from metatext.training.settings import PretrainSettings

TEXTS = [text[:8] for text in make_domain(0, 40).texts]
SETTINGS = PretrainSettings(epochs=40, lr=3e-3, progress=False)


def test_masked_characters_come_to_be_known_from_those_beside_them(tiny_bert: Path, tmp_path: Path) -> None:
    """The loss falls below the entropy of the characters, which is what can be known without context."""
    before = {path: path.read_bytes() for path in tiny_bert.iterdir()}
    loss = pretrain(str(tiny_bert), TEXTS, tmp_path / "more", SETTINGS)
    counts = Counter("".join(TEXTS))
    shares = [count / counts.total() for count in counts.values()]
    entropy = -sum(share * math.log(share) for share in shares)
    assert loss < 0.8 * entropy
    assert {path: path.read_bytes() for path in tiny_bert.iterdir()} == before
    learner, start = Learner.from_pretrained(tmp_path / "more"), Learner.from_pretrained(tiny_bert)
    assert not torch.allclose(learner.encode(TEXTS[:4]), start.encode(TEXTS[:4]), atol=0.1)
    assert learner.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    with pytest.raises(FileExistsError, match="more already exists"):
        pretrain(str(tiny_bert), TEXTS, tmp_path / "more", SETTINGS)


def test_a_head_for_masked_words_is_used_where_there_is_one(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A head that allows few characters, those of the texts, starts from about the logarithm of their number."""
    once, texts = PretrainSettings(epochs=1, lr=1e-9, progress=False), ["球队比赛进球冠军", "主场球迷联赛教练"]
    assert pretrain(str(tiny_bert), texts, tmp_path / "new", once) > 4
    assert "has no head for masked words" in caplog.text
    model, tokenizer = (kind.from_pretrained(tiny_bert) for kind in (AutoModelForMaskedLM, AutoTokenizer))
    with torch.no_grad():
        model.get_output_embeddings().bias.fill_(-50)[sorted(set(tokenizer("".join(texts))["input_ids"]))] = 50
        model.cls.predictions.transform.LayerNorm.weight.fill_(1e-3)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "with head")
    caplog.clear()
    assert pretrain(str(tmp_path / "with head"), texts, tmp_path / "known", once) == pytest.approx(
        math.log(16), abs=0.1
    )
    assert "has no head" not in caplog.text


def test_command_takes_lines_and_tables_and_refuses_learners(
    make_learner: Callable[..., Learner], tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    lines.write_text("\n".join(TEXTS[:20]), encoding="utf-8")
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[20:50]), encoding="utf-8")
    output = tmp_path / "more"
    words = ["--texts", str(lines), str(rows), "--output", str(output), "--batch-size", "8", "--no-progress"]
    main(["pretrain", str(tiny_bert), *words])
    assert "more: pre-trained on 50 texts, loss " in capsys.readouterr().out
    assert Learner.from_pretrained(output).encode(TEXTS[:1]).isfinite().all()
    make_learner().save_pretrained(tmp_path / "learner")
    with pytest.raises(InputError, match="learner holds a learner: pre-train an encoder, then meta-train it"):
        pretrain(str(tmp_path / "learner"), TEXTS, tmp_path / "other", SETTINGS)
    with pytest.raises(InputError, match="there are no texts"):
        pretrain(str(tiny_bert), [], tmp_path / "other", SETTINGS)
    assert not (tmp_path / "other").exists()


def test_a_seed_is_a_result_and_the_callers_generators_go_on(tiny_bert: Path, tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        once = PretrainSettings(epochs=1, lr=1e-9, seed=seed, progress=False)
        losses.append(pretrain(str(tiny_bert), TEXTS, tmp_path / str(number), once))
        after = torch.rand(1)
        torch.manual_seed(number)
        assert torch.equal(after, torch.rand(1))
    assert losses[0] == losses[1] != losses[2]


def test_texts_are_prefixed_and_cut(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("transformers.Trainer.train", lambda self: seen.extend(self.train_dataset["input_ids"]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    settings = PretrainSettings(text_prefix="query: ", max_length=12, progress=False)
    with pytest.raises(StopIteration):  # there is no loss
        pretrain(str(tiny_bert), TEXTS[:3], tmp_path / "more", settings)
    assert seen == [tokenizer(f"query: {text}", truncation=True, max_length=12)["input_ids"] for text in TEXTS[:3]]
    assert {len(ids) for ids in seen} == {12}


def test_what_diverges_is_not_written(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="pre-training diverged"):
        pretrain(str(tiny_bert), TEXTS, tmp_path / "more", PretrainSettings(epochs=2, lr=1e30, progress=False))
    assert not list(tmp_path.iterdir())


def test_half_precision_and_the_bar_of_a_cpu(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(str(tiny_bert), TEXTS[:40], tmp_path / "more", PretrainSettings(mixed_precision="bf16"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": math.inf}, "epochs must be a number of passes over the texts, got inf"),
        ({"epochs": 0.0}, "epochs must be above 0"),
        ({"seed": 2**32}, "seed must be from 0 to"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PretrainSettings(**options)  # type: ignore[arg-type]
