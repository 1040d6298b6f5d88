"""Domain-adversarial training: its gradient, what it does to the vectors, and its place in a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_domain
from safetensors.torch import load_file

from metatext import EpisodeSampler, Learner, MetaTrainer, TrainConfig
from metatext.cli import main
from metatext.dann import PREFIX, Adversary, strength
from metatext.errors import InputError

SOURCE = ["球队比赛进球", "股票基金上涨", "教练和球迷", "银行利率"]
TARGET = ["旅游景点酒店", "海滩机票", "古镇导游行程", "景点门票"]


def test_gradient_is_that_of_finite_differences_and_turned_round_for_the_encoder(
    make_learner: Callable[..., Learner],
) -> None:
    learner = make_learner()
    adversary = Adversary(32, TARGET, seed=1).double()
    names = dict(learner.named_parameters()) | {PREFIX + n: p for n, p in adversary.named_parameters()}
    found = adversary.gradients(learner, SOURCE, 0, 0.25, names)

    def loss() -> float:
        """Written out: the mean of -log p(right side)."""
        with torch.no_grad():
            hidden, out = adversary.layers[0], adversary.layers[2]
            total = 0.0
            for text, side in [(t, 0.0) for t in SOURCE] + [(t, 1.0) for t in TARGET]:
                vector = learner.encode([text])[0]
                value = out.weight[0] @ torch.relu(hidden.weight @ vector + hidden.bias) + out.bias[0]
                total -= float(torch.nn.functional.logsigmoid(value if side else -value))
            return total / (len(SOURCE) + len(TARGET))

    checked, h = 0, 1e-5
    for name, parameter in names.items():
        if name not in found or parameter.ndim < 2 or "embeddings" in name:
            continue
        values, place = parameter.data.view(-1), 7
        middle = float(values[place])
        values[place] = middle + h
        up = loss()
        values[place] = middle - h
        slope = (up - loss()) / (2 * h)
        values[place] = middle
        factor = 1.0 if name.startswith(PREFIX) else -0.25
        assert float(found[name].view(-1)[place]) == pytest.approx(factor * slope, rel=1e-4, abs=1e-9), name
        checked += 1
    assert checked >= 14 and any(name.startswith(PREFIX) for name in found)
    assert "head.log_scale" not in found


def test_strength_rises_from_0_to_the_weight() -> None:
    assert strength(0.3, 0, 100) == 0
    assert strength(0.3, 10, 100) == pytest.approx(0.3 * math.tanh(0.5))  # 2 / (1 + e^-x) - 1 = tanh(x / 2)
    assert strength(0.3, 100, 100) == pytest.approx(0.3, rel=1e-3)


def make_trainer(tiny_bert: Path, weight: float, output: Path | None = None, **options: Any) -> MetaTrainer:
    """The target: other texts of the same topics, each with a mark."""
    texts = [f"{text}qqq" for text in make_domain(1, 30).texts]
    learner = Learner.from_pretrained(tiny_bert, inner_steps=1)
    options = {"meta_steps": 100, "meta_batch_size": 2, "outer_lr": 1e-3, "head_lr": 1e-2, "progress": False} | options
    config = TrainConfig(output=str(output) if output else None, adversarial=weight, **options)
    sampler = EpisodeSampler([make_domain(0, 30)], ways=3, shots=2, queries=5)
    return MetaTrainer(learner, sampler, config=config, target_texts=texts)


def test_the_encoder_comes_to_hide_the_target(tiny_bert: Path) -> None:
    losses = []
    for weight in (1e-9, 1.0):
        trainer = make_trainer(tiny_bert, weight)
        trainer.train()
        assert trainer.adversary
        new = make_domain(2, 20).texts
        with torch.no_grad():
            vectors = [trainer.learner.encode(texts) for texts in (new, [f"{text}qqq" for text in new])]
            losses.append(float(trainer.adversary.loss(*vectors)))
    assert losses[0] < 0.45 and losses[1] > 0.6, losses  # log 2 = 0.69: it cannot tell


def test_a_run_resumes_to_the_same_bits_and_not_with_other_texts(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"meta_steps": 6, "save_every": 2}
    whole = make_trainer(tiny_bert, 0.5, tmp_path / "whole", **options)
    whole.train()
    cut, step = make_trainer(tiny_bert, 0.5, tmp_path / "cut", **options), MetaTrainer._step

    def interrupted(self: MetaTrainer) -> dict[str, float]:
        if self.state.step == 4:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetaTrainer, "_step", interrupted)
        cut.train()
    resumed = make_trainer(tiny_bert, 0.5, tmp_path / "cut", resume=True, **options)
    other = make_trainer(tiny_bert, 0.5, tmp_path / "cut", resume=True, **options)
    assert other.adversary
    other.adversary.texts.append("海滩")
    with pytest.raises(InputError, match="was started with target_texts="):
        other.train()
    resumed.train()
    files = [tmp_path / run / "checkpoints" / "step-000006" / "weights.safetensors" for run in ("whole", "cut")]
    one, two = map(load_file, files)
    assert PREFIX + "layers.0.weight" in one and one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    learner = load_file(tmp_path / "whole" / "model.safetensors")
    assert not any("adversary" in name for name in learner)


def test_weight_and_texts_go_together(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, posts = tmp_path / "a.jsonl", tmp_path / "posts.txt"
    rows = [{"text": t, "label": c} for t, c in zip(make_domain().texts, make_domain().labels, strict=True)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    posts.write_text("\n".join(TARGET) + "\n\n", encoding="utf-8")
    train = ["train", "--source", str(source), "--encoder", str(tiny_bert), "--output", str(tmp_path / "run")]
    train += ["--ways", "3", "--shots", "1", "--queries", "2", "--inner-steps", "1", "--meta-steps", "2"]
    for words in (["--adversarial", "0.1"], ["--unlabelled", str(posts)]):
        with pytest.raises(SystemExit):
            main([*train, *words])
        assert "--adversarial 0.1 --unlabelled posts.csv" in capsys.readouterr().err
    main([*train, "--adversarial", "0.1", "--unlabelled", str(posts), "--no-progress"])
    assert "2 meta-steps" in capsys.readouterr().out
