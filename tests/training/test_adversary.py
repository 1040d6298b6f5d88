"""Domain-adversarial training: its gradient, what it does to the vectors, and its place in a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import central_difference, make_domain
from safetensors.torch import load_file

from metatext import EpisodeSampler, Learner, MetaTrainer, TrainConfig
from metatext.cli.main import main
from metatext.data.settings import Table
from metatext.data.user_files import read_unlabelled
from metatext.errors import InputError
from metatext.training.adversary import ADVERSARY_PREFIX, Adversary, adversarial_weight

SOURCE = ["球队比赛进球", "股票基金上涨", "教练和球迷", "银行利率"]
TARGET = ["旅游景点酒店", "海滩机票", "古镇导游行程", "景点门票"]


@pytest.mark.parametrize(("batch_size", "loss_scale"), [(64, 1.0), (3, 8.0)])
def test_gradient_is_that_of_finite_differences_and_turned_round_for_the_encoder(
    make_learner: Callable[..., Learner], batch_size: int, loss_scale: float
) -> None:
    learner = make_learner(batch_size=batch_size)
    learner.loss_scale = loss_scale
    adversary = Adversary(32, TARGET, seed=1).double()
    names = dict(learner.named_parameters()) | own_of(adversary)
    found = adversary.gradients(learner, SOURCE, 0, 0.25, names)

    def loss() -> float:
        """Written out: the mean of -log p(right side) over the texts of each side, added."""
        with torch.no_grad():
            hidden, out = adversary.layers[0], adversary.layers[2]
            total = 0.0
            for text, side in [(t, 0.0) for t in SOURCE] + [(t, 1.0) for t in TARGET]:
                vector = learner.encode([text])[0]
                value = out.weight[0] @ torch.relu(hidden.weight @ vector + hidden.bias) + out.bias[0]
                total -= float(torch.nn.functional.logsigmoid(value if side else -value))
            return total / len(SOURCE)  # as many on both sides

    checked, place = 0, 7
    for name, parameter in names.items():
        if name not in found or parameter.ndim < 2 or "embeddings" in name:
            continue
        slope = central_difference(loss, parameter, place, 1e-5)
        factor = 1.0 if name.startswith(ADVERSARY_PREFIX) else -0.25
        assert float(found[name].view(-1)[place]) == pytest.approx(factor * slope, rel=1e-4, abs=1e-9), name
        checked += 1
    assert checked >= 14 and any(name.startswith(ADVERSARY_PREFIX) for name in found)
    assert "head.log_scale" not in found


def test_sides_count_alike_however_many_texts_they_have() -> None:
    adversary = Adversary(8, TARGET)
    with torch.no_grad():
        for parameter in adversary.parameters():
            parameter.zero_()  # cannot tell
    loss = adversary.loss(torch.randn(15, 8), torch.randn(1, 8))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_an_episode_has_target_texts_of_its_own(
    make_learner: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, seen = make_learner(), list[tuple[str, ...]]()
    adversary = Adversary(32, make_domain().texts, seed=1).double()
    encode = learner.encode
    monkeypatch.setattr(learner, "encode", lambda texts, *how: (seen.append(tuple(texts)), encode(texts, *how))[1])
    for number in (0, 1, 0):
        adversary.gradients(learner, SOURCE, number, 0.1, dict(learner.named_parameters()) | own_of(adversary))
    assert seen[0] == seen[2] != seen[1]
    assert all(texts[:4] == tuple(SOURCE) and set(texts[4:]) < set(adversary.texts) for texts in seen)


def own_of(adversary: Adversary) -> dict[str, torch.nn.Parameter]:
    return {ADVERSARY_PREFIX + name: p for name, p in adversary.named_parameters()}


def test_strength_rises_from_0_to_the_weight() -> None:
    assert adversarial_weight(0.3, 0, 100) == 0
    assert adversarial_weight(0.3, 10, 100) == pytest.approx(0.3 * math.tanh(0.5))  # 2 / (1 + e^-x) - 1 = tanh(x / 2)
    assert adversarial_weight(0.3, 100, 100) == pytest.approx(0.3, rel=1e-3)


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
    assert losses[0] < 0.9 and losses[1] > 1.2, losses  # 2 log 2 = 1.39: it cannot tell


def test_the_encoder_starts_unmoved_and_the_adversary_has_the_rate_of_heads(tiny_bert: Path) -> None:
    trainer = make_trainer(tiny_bert, 0.5)
    assert trainer.adversary
    for group in trainer.optimizer.param_groups:
        adversarial = {id(p) for p in trainer.adversary.parameters()} & {id(p) for p in group["params"]}
        assert not adversarial or group["peak_lr"] == trainer.config.head_lr
    sizes = []
    for step in (0, 50):
        trainer.state.step = step
        found = dict(trainer._adversarial_gradients(trainer.sampler[0], 0))
        sizes.append(
            [sum(float(g.abs().sum()) for n, g in found.items() if n.startswith(p)) for p in ("enc", ADVERSARY_PREFIX)]
        )
    assert sizes[0][0] == 0 < sizes[1][0] and sizes[0][1] > 0


def test_a_gradient_that_is_not_finite_costs_its_episode_alone(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, gradients = make_trainer(tiny_bert, 0.5, meta_steps=3), Adversary.gradients

    def overflows(self: Adversary, learner: Learner, texts: Any, number: int, *how: Any) -> dict[str, torch.Tensor]:
        return {
            n: g * (torch.inf if number == 2 else 1) for n, g in gradients(self, learner, texts, number, *how).items()
        }

    monkeypatch.setattr(Adversary, "gradients", overflows)
    assert trainer.train()["skipped"] == 1
    assert all(p.isfinite().all() for p in trainer.parameters.values())


def test_validation_on_source_classes_neither_stops_nor_chooses(tiny_bert: Path) -> None:
    trainer = make_trainer(tiny_bert, 0.5, meta_steps=8, patience=1, eval_every=1, eval_episodes=1)
    trainer.valid_sampler = EpisodeSampler([make_domain(3)], ways=3, shots=1, queries=2)
    weights = []
    step = trainer._step
    trainer._step = lambda: (step(), weights.append([p.detach().clone() for p in trainer.parameters.values()]))[0]  # type: ignore[method-assign]
    summary = trainer.train()
    assert summary["step"] == 8 and len(summary["validation"]) == 8
    assert all(torch.equal(a, b) for a, b in zip(weights[-1], trainer.parameters.values(), strict=True))


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
    assert ADVERSARY_PREFIX + "layers.0.weight" in one and one.keys() == two.keys()
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
    assert read_unlabelled([str(posts)], Table()) == TARGET
    table = tmp_path / "table.txt"
    table.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    assert read_unlabelled([str(table)], Table()) == make_domain().texts
    with pytest.raises(InputError, match="target_texts must be a list of strings"):
        MetaTrainer(Learner.from_pretrained(tiny_bert), EpisodeSampler([make_domain()]), target_texts=str(posts))
    with pytest.raises(InputError, match="adversarial must be at least 0, got nan"):
        TrainConfig(adversarial=math.nan)
    for words in (["--adversarial", "0.1"], ["--unlabelled", str(posts)]):
        with pytest.raises(SystemExit):
            main([*train, *words])
        lacks = "texts of the target, --unlabelled" if "--adversarial" in words else "a weight, --adversarial 0.3"
        assert f"adversarial training lacks {lacks}" in capsys.readouterr().err
    main([*train, "--adversarial", "0.1", "--unlabelled", str(posts), "--no-progress"])
    assert "2 meta-steps" in capsys.readouterr().out
