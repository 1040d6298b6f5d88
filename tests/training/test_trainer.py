"""Meta-training: one process or two, killed and resumed, with bad episodes; schedule, groups and files of a run."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import TOPICS, make_domain, make_rows
from safetensors.torch import load_file, save_file
from train_together import CASES, train

from metatext import Domain, Episode, EpisodeSampler, InputError, Learner, MetaTrainer, TrainConfig
from metatext.data.settings import EpisodeSettings
from metatext.learners.meta_gradient import EpisodeResult, evaluate_episode, outer_loss, run_episode
from metatext.learners.settings import LearnerSettings
from metatext.training import loss_scale, meta_training, trainer
from metatext.training.checkpoints import RunState
from metatext.training.initial_head_scale import calibrate_scale
from metatext.training.run_folder import check_output
from metatext.training.schedules import learning_rate

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # sums in the same order, run after run


def make_trainer(
    encoder: Path, valid: bool = False, learner: dict[str, Any] | None = None, **config: Any
) -> MetaTrainer:
    """Over two domains; episodes of 3 classes, 2 shots and 2 queries."""
    sampler = EpisodeSampler([make_domain(0), make_domain(1, name="b")], ways=3, shots=2, queries=2, seed=3)
    held = EpisodeSampler([make_domain(2)], ways=3, shots=2, queries=4, seed=4) if valid else None
    values = {"meta_steps": 4, "meta_batch_size": 2, "eval_every": 2, "eval_episodes": 2, "progress": False} | config
    settings = {"inner_steps": 1} | (learner or {})
    return MetaTrainer(Learner.from_pretrained(encoder, **settings), sampler, held, TrainConfig(**values))


def weights_of(job: MetaTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in job.learner.named_parameters()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_rows(path: Path, seed: int, per_class: int = 8) -> str:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in make_rows(seed, per_class)]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- names of classes
CALLED = dict(zip(TOPICS, ["球队", "股票", "汽车", "火锅", "海滩", "手机"], strict=True))


@pytest.mark.parametrize(
    ("labels", "learner", "config", "named"),
    [
        (CALLED, {}, {}, True),
        (CALLED, {}, {"names": False}, False),
        (CALLED, {"head": "linear", "classes": sorted(CALLED.values())}, {}, False),
        ({topic: str(i) for i, topic in enumerate(TOPICS)}, {}, {}, False),  # numbers say nothing
        ({topic: topic for topic in TOPICS}, {}, {}, False),  # which the vocabulary spells by letters
    ],
)
def test_names_stand_among_the_texts_where_the_encoder_reads_them(
    tiny_bert: Path,
    labels: dict[str, str],
    learner: dict[str, Any],
    config: dict[str, Any],
    named: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Episode] = []
    for judge in (run_episode, evaluate_episode):
        monkeypatch.setattr(
            f"metatext.training.trainer.{judge.__name__}",
            lambda a, episode, *b, own=judge: seen.append(episode) or own(a, episode, *b),
        )
    sampler, held = (
        EpisodeSampler([make_domain(seed).relabel(labels)], 3, 2, 2, shared_labels="classes" in learner)
        for seed in (0, 1)
    )
    settings = TrainConfig(meta_steps=1, meta_batch_size=2, eval_every=1, eval_episodes=1, progress=False, **config)
    MetaTrainer(Learner.from_pretrained(tiny_bert, inner_steps=1, **learner), sampler, held, settings).train()
    assert [episode.query for episode in seen] == [sampler[0].query, sampler[1].query, held[0].query]
    for episode, plain in zip(seen, (sampler[0], sampler[1], held[0]), strict=True):
        more = episode.classes if named else []
        assert episode.support.texts == plain.support.texts + more
        assert episode.support.labels == plain.support.labels + list(range(len(more)))


# ---------------------------------------------------------------- processes
@pytest.mark.slow
def test_two_processes_compute_what_one_computes(tiny_bert: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    command += [str(Path(__file__).with_name("train_together.py")), str(tiny_bert), str(tmp_path)]
    tests = str(Path(__file__).parents[1])  # where conftest is
    environment = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": tests}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for number, case in enumerate(CASES):
        both = [load_file(tmp_path / f"{number}-of-{rank}.safetensors") for rank in (0, 1)]
        assert all(one.pop("processes").item() == 2 for one in both)
        assert [one.pop("skipped").item() for one in both] == [int(case.endswith("bad"))] * 2
        expected = train(tiny_bert, case)[1]
        assert both[0].keys() == both[1].keys() == expected.keys()
        assert "gradient 2" in expected
        for name, value in expected.items():
            assert torch.equal(both[0][name], both[1][name]), name
            torch.testing.assert_close(both[0][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tiny_bert: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metatext", "train", "--encoder", str(tiny_bert), "--no-progress"]
    command += ["--source", write_rows(tmp_path / "a.jsonl", 0), write_rows(tmp_path / "b.jsonl", 1)]
    command += ["--ways", "2", "--shots", "2", "--queries", "3", "--inner-steps", "2", "--second-order-steps", "2"]
    command += ["--meta-steps", "30", "--meta-batch-size", "4", "--outer-lr", "1e-3", "--patience", "0"]
    command += ["--eval-every", "3", "--eval-episodes", "4", "--save-every", "2"]
    subprocess.run([*command, "--output", str(tmp_path / "whole")], env=ENVIRONMENT, check=True, timeout=600)

    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, "--output", str(killed)], env=ENVIRONMENT)
    deadline = time.monotonic() + 300
    while not list(killed.glob("checkpoints/step-00000[4-9]")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = max(int(path.name[5:]) for path in killed.glob("checkpoints/step-*"))
    assert 4 <= reached < 30
    assert not (killed / "metatext.json").exists()

    subprocess.run([*command, "--output", str(killed), "--resume"], env=ENVIRONMENT, check=True, timeout=600)
    umask = os.umask(0o022)
    os.umask(umask)
    for name in ("model.safetensors", "learner.safetensors", "metatext.json"):
        assert (killed / name).stat().st_mode & 0o777 == 0o666 & ~umask  # safetensors' own are private
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    summaries = [json.loads((tmp_path / run / "training.json").read_text()) for run in ("whole", "killed")]
    assert summaries[0]["validation"] == summaries[1]["validation"]
    assert [v["step"] for v in summaries[0]["validation"]] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert names_in(killed / "checkpoints") == names_in(tmp_path / "whole" / "checkpoints")


def train_until(stop: int, trainer: MetaTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until an interruption before the step after `stop`."""

    def interrupted(self: MetaTrainer) -> dict[str, float]:
        if self.state.step == stop:
            raise KeyboardInterrupt
        return step(self)

    step = MetaTrainer._step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetaTrainer, "_step", interrupted)
        trainer.train()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_that_stops_at_any_step_resumes_to_the_same_bits(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    options = {"valid": True, "meta_steps": 6, "outer_lr": 1e-3, "eval_every": 2, "save_every": 1}
    whole = make_trainer(tiny_bert, output=str(tmp_path / "whole"), **options)
    summary = whole.train()

    train_until(stop, make_trainer(tiny_bert, output=str(tmp_path / "cut"), **options), monkeypatch)
    resumed = make_trainer(tiny_bert, output=str(tmp_path / "cut"), resume=True, **options)
    again = resumed.train()
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}


def test_a_run_of_adapters_by_the_first_version_resumes(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version named adapters as peft does."""
    options: dict[str, Any] = {"learner": {"scope": "lora"}, "meta_steps": 2, "outer_lr": 1e-2, "save_every": 1}
    whole = make_trainer(tiny_bert, output=str(tmp_path / "whole"), **options)
    whole.train()

    train_until(1, make_trainer(tiny_bert, output=str(tmp_path / "cut"), **options), monkeypatch)
    path = tmp_path / "cut" / "checkpoints" / "step-000001" / "weights.safetensors"
    renamed = {re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", n): value for n, value in load_file(path).items()}
    assert any(".default." in name for name in renamed)
    save_file(renamed, path)
    resumed = make_trainer(tiny_bert, output=str(tmp_path / "cut"), resume=True, **options)
    resumed.train()
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())


# ---------------------------------------------------------------- episodes that go wrong
def nan_in(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[int], bool], where: str = "loss") -> list[int]:
    """From now on the episodes whose running number is `chosen` are not finite; returns the numbers run so far."""
    seen: list[int] = []

    def run(learner: Learner, episode: Episode, *how: Any) -> EpisodeResult:
        result = run_episode(learner, episode, *how)
        seen.append(len(seen))
        if chosen(seen[-1]):
            if where == "loss":
                return result._replace(loss=result.loss * torch.nan)
            result.gradients["encoder.embeddings.word_embeddings.weight"][0, 0] = torch.inf
        return result

    monkeypatch.setattr(trainer, "run_episode", run)
    return seen


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_episode_that_is_not_finite_is_skipped_and_counted(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    seen = nan_in(monkeypatch, lambda number: number in (1, 4, 5), where)  # steps of two: one of 0, both of 2
    job = make_trainer(tiny_bert, outer_lr=1e-3)
    gradients: list[torch.Tensor] = []
    update = job._update
    monkeypatch.setattr(job, "_update", lambda flat: (gradients.append(flat.clone()), update(flat)))
    before = weights_of(job)
    with caplog.at_level(logging.WARNING, "metatext"):
        summary = job.train()
    assert len(seen) == 8 and summary["step"] == 4 and summary["skipped"] == 3 and summary["bad_in_a_row"] == 0
    warnings = [record.getMessage() for record in caplog.records if "non-finite" in record.getMessage()]
    assert warnings == [f"episode {n} has a non-finite loss or gradient and is skipped" for n in (1, 4, 5)]
    after = weights_of(job)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert len(gradients) == 3  # step 2 had no good episode


def test_the_mean_is_over_the_good_episodes(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_in(monkeypatch, lambda number: number == 1)
    job = make_trainer(tiny_bert, meta_steps=1)
    result = run_episode(job.learner, job.sampler[0])
    expected = torch.cat([result.gradients[name].flatten() for name in job.parameters])
    gradients: list[torch.Tensor] = []
    monkeypatch.setattr(job, "_update", gradients.append)
    figures = job._step()
    torch.testing.assert_close(gradients[0], expected)
    assert figures["loss"] == round(float(result.loss), 4) and figures["accuracy"] == round(int(result.correct) / 6, 4)


def test_ten_bad_episodes_in_a_row_stop_the_run_with_advice(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in(monkeypatch, lambda number: number >= 3)
    job = make_trainer(tiny_bert, meta_steps=20, save_every=1, output=str(tmp_path / "run"))
    with pytest.raises(FloatingPointError, match=r"10 episodes in a row .* number 12: lower --inner-lr or --outer-lr"):
        job.train()
    assert job.state.skipped == 10
    assert all(value.isfinite().all() for value in weights_of(job).values())
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-000006" / "weights.safetensors")
    assert all(value.isfinite().all() for value in saved.values())


def test_nine_bad_episodes_in_a_row_do_not_stop_the_run(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_in(monkeypatch, lambda number: 1 <= number <= 9)
    assert make_trainer(tiny_bert, meta_steps=6).train()["skipped"] == 9


# ---------------------------------------------------------------- validation
def script_validation(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    """Validation i finds `accuracies[i]` correct of the 12 queries of each of its two episodes."""
    calls: list[None] = []

    def evaluate(learner: Learner, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(None)
        return torch.tensor(1.0), torch.tensor(12 * accuracies[(len(calls) - 1) // 2])

    monkeypatch.setattr(trainer, "evaluate_episode", evaluate)


def test_early_stopping_keeps_the_best_weights(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, [0.25, 0.75, 0.5, 0.75, 1.0])
    job = make_trainer(
        tiny_bert, True, meta_steps=30, outer_lr=1e-3, patience=2, save_every=50, output=str(tmp_path / "run")
    )
    at: dict[int, dict[str, torch.Tensor]] = {}
    validate = job._validate
    monkeypatch.setattr(job, "_validate", lambda: (at.update({job.state.step: weights_of(job)}), validate())[1])
    summary = job.train()
    assert summary["step"] == 8 and summary["best_step"] == 4 and summary["best_accuracy"] == 0.75
    found = {v["step"]: v["valid_accuracy"] for v in summary["validation"]}
    assert found == {2: 0.25, 4: 0.75, 6: 0.5, 8: 0.75}
    assert all(torch.equal(value, at[4][name]) for name, value in weights_of(job).items())
    assert any(not torch.equal(value, at[8][name]) for name, value in weights_of(job).items())
    again = Learner.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, at[4][name]) for name, value in again.named_parameters())


def test_the_lower_loss_decides_between_equal_accuracies(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 3.0, 2.0, 2.0, 2.5, 2.5])
    answer = lambda learner, episode: (torch.tensor(next(losses)), torch.tensor(6))  # noqa: E731
    monkeypatch.setattr(trainer, "evaluate_episode", answer)
    summary = make_trainer(tiny_bert, True, meta_steps=6, patience=0).train()
    assert (summary["best_step"], summary["best_loss"], summary["validations_since_best"]) == (4, 2.0, 1)


def test_without_patience_the_run_goes_to_its_end(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_validation(monkeypatch, [0.75, 0.5, 0.5, 0.25, 0.5])
    summary = make_trainer(tiny_bert, True, meta_steps=9, patience=0).train()
    assert (summary["step"], summary["best_step"]) == (9, 2)
    assert [v["step"] for v in summary["validation"]] == [2, 4, 6, 8, 9]


def test_each_validation_is_handed_on(tiny_bert: Path) -> None:
    job, seen = make_trainer(tiny_bert, valid=True, meta_steps=5), list[dict[str, float]]()
    job.on_validation = seen.append
    summary = job.train()
    assert [list(figures) for figures in seen] == [["step", "valid_loss", "valid_accuracy"]] * 3
    assert [figures["step"] for figures in seen] == [2, 4, 5] and seen == summary["validation"]


def test_what_is_handed_a_validation_may_end_the_training(tiny_bert: Path, tmp_path: Path) -> None:
    def stop(figures: dict[str, float]) -> None:
        if figures["step"] == 4:
            raise StopIteration("enough")

    job = make_trainer(tiny_bert, valid=True, meta_steps=8, save_every=4, output=str(tmp_path / "run"))
    job.on_validation = stop
    with pytest.raises(StopIteration, match="enough"):
        job.train()
    assert job.state.step == 4 and "step-000004" in names_in(tmp_path / "run" / "checkpoints")
    assert not (tmp_path / "run" / "metatext.json").exists()


def test_validation_classes_are_never_trained_on(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[str] = set()
    validated: set[str] = set()

    def run(learner: Learner, episode: Episode, *how: Any) -> EpisodeResult:
        trained.update(episode.classes)
        return run_episode(learner, episode, *how)

    def evaluate(learner: Learner, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        validated.update(episode.classes)
        return torch.tensor(1.0), torch.tensor(1)

    monkeypatch.setattr(trainer, "run_episode", run)
    monkeypatch.setattr(trainer, "evaluate_episode", evaluate)
    domains = [make_domain(0), make_domain(1, name="b")]
    settings = LearnerSettings(inner_steps=1)
    config = TrainConfig(meta_steps=12, meta_batch_size=2, eval_every=6, eval_episodes=8, progress=False)
    episodes = EpisodeSettings(ways=2, shots=2, queries=2, valid_fraction=0.34)
    meta_training.train(domains, str(tiny_bert), settings, episodes, config)
    assert len(trained) == 4 and len(validated) == 2 and not trained & validated
    trained.clear()
    validated.clear()
    named = EpisodeSettings(ways=2, shots=2, queries=2, valid_classes=("car", "food", "tech"))
    meta_training.train(domains, str(tiny_bert), settings, named, config)
    assert trained == {"sport", "finance", "travel"} and validated == {"car", "food", "tech"}


def test_a_linear_head_trains_without_validation_and_keeps_the_last_weights(tiny_bert: Path) -> None:
    config = TrainConfig(meta_steps=2, meta_batch_size=2, eval_episodes=2, progress=False)
    settings, episodes = LearnerSettings(head="linear", inner_steps=1), EpisodeSettings(shots=2, queries=2)
    domains = [make_domain(0), make_domain(1, name="b")]
    summary = meta_training.train(domains, str(tiny_bert), settings, episodes, config)
    assert summary["step"] == 2 and summary["validation"] == [] and summary["best_step"] == -1


# ---------------------------------------------------------------- optimiser
def test_the_schedule_rises_and_falls_to_zero(tiny_bert: Path) -> None:
    job = make_trainer(tiny_bert, meta_steps=10, warmup_fraction=0.3)
    assert [round(learning_rate(step, 10, 0.3), 4) for step in range(11)] == [
        *(0.3333, 0.6667, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0),
    ]
    rates: list[float] = []
    for _ in range(3):
        job._step()
        rates += [group["lr"] for group in job.optimizer.param_groups if group["weight_decay"]]
    assert rates == pytest.approx([1e-5, 2e-5, 3e-5])


@pytest.mark.parametrize("options", [{"meta_steps": 1}, {"meta_steps": 5, "warmup_fraction": 0.0}])
def test_the_first_step_of_a_short_run_has_the_full_rate(options: dict[str, Any]) -> None:
    config = TrainConfig(**options)
    assert learning_rate(0, config.meta_steps, config.warmup_fraction) == 1.0
    assert learning_rate(config.meta_steps, config.meta_steps, config.warmup_fraction) == 0.0


def test_each_kind_of_parameter_has_its_rate_and_decay(tiny_bert: Path) -> None:
    rates = {"outer_lr": 1e-4, "head_lr": 2e-3, "rate_lr": 3e-2, "weight_decay": 0.05}

    def groups(job: MetaTrainer) -> dict[str, tuple[float, float]]:
        names = {id(p): name for name, p in job.learner.named_parameters()}
        lists = job.optimizer.param_groups
        return {names[id(p)]: (g["peak_lr"], g["weight_decay"]) for g in lists for p in g["params"]}

    job = make_trainer(tiny_bert, **rates)
    found = groups(job)
    assert found.keys() == job.parameters.keys()
    assert found["encoder.embeddings.word_embeddings.weight"] == (1e-4, 0.05)
    assert found["encoder.encoder.layer.0.attention.self.query.bias"] == (1e-4, 0.0)
    assert found["encoder.encoder.layer.1.output.LayerNorm.weight"] == (1e-4, 0.0)
    assert found["log_inner_lr"] == found["head.log_scale"] == (3e-2, 0.0)
    linear = make_trainer(tiny_bert, learner={"head": "linear", "classes": ("car", "food")}, **rates)
    assert groups(linear)["head.weight"] == groups(linear)["head.bias"] == (2e-3, 0.0)
    fixed = make_trainer(tiny_bert, learner={"learn_inner_lr": False}, **rates)
    assert "log_inner_lr" not in groups(fixed)


def test_only_the_encoders_gradient_is_clipped(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_trainer(tiny_bert, max_grad_norm=0.5)
    size = sum(p.numel() for p in job.parameters.values())
    norms: list[dict[str, float]] = []

    def step() -> None:
        encoder = torch.cat([p.grad.flatten() for n, p in job.parameters.items() if n.startswith("encoder.")])
        norms.append({"encoder": float(encoder.norm()), "scale": float(job.learner.head.log_scale.grad)})

    monkeypatch.setattr(job.optimizer, "step", step)
    job._update(torch.full((size,), 3.0))
    job._update(torch.full((size,), 1e-5))
    assert norms[0] == {"encoder": pytest.approx(0.5, rel=1e-4), "scale": 3.0}
    assert norms[1]["encoder"] == pytest.approx(1e-5 * (size - job.learner.log_inner_lr.numel() - 1) ** 0.5, rel=1e-3)


# ---------------------------------------------------------------- files
def test_the_best_and_the_last_checkpoint_are_kept(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, [0.25, 0.75, 0.5, 0.5])
    run = tmp_path / "run"
    job = make_trainer(tiny_bert, True, meta_steps=7, patience=0, save_every=1, output=str(run))
    assert job.train()["best_step"] == 4
    assert names_in(run / "checkpoints") == ["step-000004", "step-000007"]
    for checkpoint in (run / "checkpoints").iterdir():
        assert names_in(checkpoint) == ["config.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        assert (config["meta_steps"], config["outer_lr"], config["seed"]) == (7, 3e-5, 3)
        assert (config["inner_steps"], config["ways"], config["shots"]) == (1, 3, 2)
        assert config["encoder"] == str(tiny_bert)
        assert config["domains"].startswith("news (120 rows), b (120 rows), sha256 ")
    assert json.loads((run / "training.json").read_text(encoding="utf-8"))["config"]["meta_batch_size"] == 2
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert not list(tmp_path.rglob(".*"))


def test_an_output_that_holds_something_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    make_trainer(tiny_bert, output=str(run))  # an empty folder is free
    (run / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"run already exists .* --resume to go on, or --overwrite to replace it"):
        make_trainer(tiny_bert, output=str(run))
    with pytest.raises(FileExistsError, match="run holds what metatext did not write"):
        make_trainer(tiny_bert, output=str(run), overwrite=True)
    assert names_in(run) == ["notes.txt"]
    (run / "notes.txt").unlink()
    make_trainer(tiny_bert, output=str(run), meta_steps=1).train()
    (run / "notes.txt").write_text("mine")
    make_trainer(tiny_bert, output=str(run), overwrite=True, meta_steps=1).train()
    assert "notes.txt" not in names_in(run) and "metatext.json" in names_in(run)
    check_output(run, TrainConfig(resume=True))
    assert names_in(tmp_path) == ["run"]
    project = tmp_path / "thesis"
    (project / "checkpoints").mkdir(parents=True)
    (project / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis holds what metatext did not write"):
        make_trainer(tiny_bert, output=str(project), overwrite=True)


def test_a_run_is_kept_until_the_one_that_replaces_it_is_finished(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, kept = tmp_path / "run", tmp_path / ".run.replaced"
    make_trainer(tiny_bert, output=str(run), meta_steps=1).train()
    before = (run / "model.safetensors").read_bytes()

    def interrupted(self: MetaTrainer) -> Any:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(MetaTrainer, "_step", interrupted)
            make_trainer(tiny_bert, output=str(run), overwrite=True).train()
        assert (kept / "model.safetensors").read_bytes() == before
    make_trainer(tiny_bert, output=str(run), overwrite=True, meta_steps=2, outer_lr=1e-3).train()
    assert names_in(tmp_path) == ["run"] and (run / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"warmup_fraction": 1.5}, "warmup_fraction must be from 0 to 1, got 1.5"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**option)


def test_there_must_be_something_to_resume(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none holds no checkpoint to resume: start without --resume"):
        make_trainer(tiny_bert, output=str(tmp_path / "none"), resume=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="--resume and --overwrite contradict each other"):
        TrainConfig(resume=True, overwrite=True)


@pytest.mark.parametrize(
    ("options", "learner", "message"),
    [
        ({"outer_lr": 1e-4}, {}, "outer_lr=3e-05, not 0.0001"),
        ({"meta_steps": 5}, {}, "meta_steps=4, not 5"),
        ({"eval_every": 3}, {}, "eval_every=2, not 3"),
        ({}, {"inner_steps": 2}, "inner_steps=1, not 2"),
        ({}, {"second_order_steps": 1}, "second_order_steps=0, not 1"),
        ({}, {"scope": "head"}, "scope=all, not head"),
        ({}, {"text_prefix": "query: "}, "text_prefix=, not query: "),
        ({}, {"inner_lr": 0.02}, "inner_lr=0.01, not 0.02"),
        ({}, {"learn_inner_lr": False}, "learn_inner_lr=True, not False"),
        ({}, {"prototype_gradient": False}, "prototype_gradient=True, not False"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_options_do_not_resume(
    tiny_bert: Path, finished: Path, options: dict[str, Any], learner: dict[str, Any], message: str
) -> None:
    job = make_trainer(tiny_bert, output=str(finished), resume=True, learner=learner, **options)
    with pytest.raises(InputError, match=f"was started with {message}: resume with the same options, or .*--overwrite"):
        job.train()


def test_other_rows_do_not_resume(tiny_bert: Path, finished: Path) -> None:
    job = make_trainer(tiny_bert, output=str(finished), resume=True)
    texts = ["改过的一行", *job.sampler.domains[0].texts[1:]]
    job.sampler.domains[0] = Domain.from_records(texts, job.sampler.domains[0].labels, name="news")
    with pytest.raises(InputError, match=r"was started with domains=news \(120 rows\), .* not news \(120 rows\)"):
        job.train()


def test_another_encoder_does_not_resume(encoder_of: Callable[[str], Path], finished: Path) -> None:
    job = make_trainer(encoder_of("electra"), output=str(finished), resume=True)
    with pytest.raises(InputError, match=r"was started with encoder=\S+bert0, not \S+electra0: resume with the same"):
        job.train()


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    make_trainer(tiny_bert, output=str(run)).train()
    return run


def test_a_finished_run_resumes_to_what_it_is(tiny_bert: Path, finished: Path) -> None:
    before = (finished / "model.safetensors").read_bytes()
    summary = make_trainer(tiny_bert, output=str(finished), resume=True, save_every=9).train()
    assert summary["step"] == 4 and (finished / "model.safetensors").read_bytes() == before


def test_the_tracker_writes_what_is_measured(tiny_bert: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tiny_bert, True, output=str(tmp_path / "run"), tracker="tensorboard").train()
    (events,) = (tmp_path / "run" / "metatext").glob("events.*")
    read = EventAccumulator(str(events)).Reload()
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in read.Scalars("valid_accuracy")] == [2, 4]


def test_an_unknown_tracker_is_the_users_mistake(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-tracker"):
        make_trainer(tiny_bert, output=str(tmp_path / "run"), tracker="no-such-tracker")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate takes one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bf16_trains(tiny_bert: Path, tmp_path: Path, fresh_accelerate: None) -> None:
    job = make_trainer(tiny_bert, True, outer_lr=1e-3, mixed_precision="bf16", output=str(tmp_path / "run"))
    before = weights_of(job)
    assert job.learner.autocast_dtype == torch.bfloat16
    assert job.train()["skipped"] == 0
    after = weights_of(job)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_fp16_trains(tiny_bert: Path, fresh_accelerate: None) -> None:
    job = make_trainer(tiny_bert, meta_steps=2, mixed_precision="fp16")
    assert job.state.loss_scale == 4096.0 and job.learner.autocast_dtype == torch.float16
    summary = job.train()
    assert summary["step"] == 2 and summary["skipped"] <= 1 and job.learner.loss_scale == 1.0
    assert all(value.isfinite().all() for value in weights_of(job).values())


def test_the_float16_loss_scale_halves_after_a_bad_step_and_grows_again(
    tiny_bert: Path, fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "_STEPS_BEFORE_LARGER_SCALE", 3)
    job = make_trainer(tiny_bert, mixed_precision="fp16")
    scales = []
    for bad in ([False, True], [False, False], [False, False], [False, False], [True, True]):
        loss_scale.count_bad_episodes(job.state, bad, 0, float16=True)
        scales.append(job.state.loss_scale)
    assert scales == [2048.0, 2048.0, 2048.0, 4096.0, 2048.0]


# ---------------------------------------------------------------- it learns
def test_thirty_steps_lower_the_validation_loss(tiny_bert: Path) -> None:
    job = make_trainer(tiny_bert, True, meta_steps=30, outer_lr=1e-3, eval_every=10, eval_episodes=10, patience=0)
    job.valid_sampler = EpisodeSampler([make_domain(2)], ways=6, shots=1, queries=5, seed=9)
    calibrate_scale(job.learner, job.sampler)
    before = job._validate()["valid_loss"]
    job.state = RunState()
    losses = [v["valid_loss"] for v in job.train()["validation"][1:]]
    assert len(losses) == 3
    assert losses[-1] < 0.7 * before


def test_training_a_domain_twice_gives_the_same_bits(tiny_bert: Path) -> None:
    first, second = (make_trainer(tiny_bert, True, outer_lr=1e-3) for _ in range(2))
    first.train()
    second.train()
    assert all(torch.equal(value, weights_of(second)[name]) for name, value in weights_of(first).items())


def test_a_run_cut_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / ".step-000002.1.part").mkdir(parents=True)
    check_output(tmp_path / "run", TrainConfig())
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir()
    with pytest.raises(FileExistsError, match="--resume"):
        check_output(tmp_path / "run", TrainConfig())


@pytest.mark.parametrize(
    "settings",
    [
        {"second_order_steps": 2, "kept_graphs": 2},
        {"second_order_steps": 2, "hvp": "one-sided"},
        {"inner_steps": 0},
        {"algorithm": "reptile"},
        {"algorithm": "imaml"},
        {"inner_rates": "parameter"},
        {"scope": "lora", "lora_rank": 4},
        {"scope": "top:1", "second_order_steps": 2},
        {"inner_optimizer": "adam", "inner_lr": 0.0003},
    ],
    ids=str,
)
def test_every_method_learns(tiny_bert: Path, settings: dict[str, Any]) -> None:
    learner = Learner.from_pretrained(tiny_bert, **{"inner_steps": 2, "inner_lr": 0.003} | settings)
    sampler = EpisodeSampler([make_domain(0)], ways=3, shots=2, queries=3, seed=1)
    lr = 1e-2 if learner.settings.scope == "lora" else 2e-3
    share = 0.5 if learner.settings.algorithm == "maml" and learner.settings.inner_steps > 1 else 0.0
    config = TrainConfig(meta_steps=12, meta_batch_size=2, outer_lr=lr, multi_step_fraction=share, progress=False)
    before = sum(float(outer_loss(learner, sampler[i])) for i in range(8))
    MetaTrainer(learner, sampler, config=config).train()
    assert sum(float(outer_loss(learner, sampler[i])) for i in range(8)) < 0.5 * before


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ({"algorithm": "reptile"}, {"multi_step_fraction": 0.5}, "multi_step_fraction needs algorithm='maml'"),
        ({"inner_steps": 1}, {"multi_step_fraction": 0.5}, "and at least two inner_steps"),
        ({}, {"first_order_fraction": 0.5}, "first_order_fraction needs second_order_steps above 0"),
        (
            {"second_order_steps": 2, "hvp": "one-sided"},
            {"mixed_precision": "bf16"},
            "hvp='one-sided' needs full precision, and bf16 would round the difference away",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    tiny_bert: Path, settings: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    learner = Learner.from_pretrained(tiny_bert, **settings)
    sampler = EpisodeSampler([make_domain(0)], ways=3, shots=2, queries=3, seed=1)
    with pytest.raises(InputError, match=sentence):
        MetaTrainer(learner, sampler, config=TrainConfig(**options))
