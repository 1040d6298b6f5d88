"""Search over meta-training: what a study holds, what is pruned, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_rows

from metatext import InputError
from metatext.cli.main import main
from metatext.cli.runner import parse
from metatext.cli.train import Train
from metatext.data.settings import EpisodeSettings, Table
from metatext.learners.settings import LearnerSettings
from metatext.search.settings import SearchSettings
from metatext.training.job import Job
from metatext.training.settings import TrainConfig

optuna = pytest.importorskip("optuna")

from metatext.search.search import search  # noqa: E402
from metatext.search.study_files import best_of, finished, options_of  # noqa: E402

EPISODES = EpisodeSettings(ways=2, shots=2, queries=3)
CONFIG = TrainConfig(meta_steps=2, meta_batch_size=1, eval_every=1, eval_episodes=2, progress=False)
NARROW = ("outer-lr", "inner-lr", "inner-steps=1..2")


def write_rows(path: Path, seed: int) -> str:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in make_rows(seed, 8)]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    return write_rows(folder / "a.jsonl", 0), write_rows(folder / "b.jsonl", 1)


@pytest.fixture
def make_job(sources: tuple[str, str], tiny_bert: Path, tmp_path: Path) -> Callable[..., Job]:
    """What the trials train, into tmp_path / "search" unless told otherwise."""

    def make(**changed: Any) -> Job:
        config = CONFIG.__dict__ | {"output": str(tmp_path / "search")}
        config |= {name: changed.pop(name) for name in list(changed) if name in config}
        values = {"source": sources, "table": Table(), "encoder": str(tiny_bert), "episodes": EPISODES}
        return Job(**values | {"learner": LearnerSettings()} | changed, config=TrainConfig(**config))

    return make


class FakeTraining:
    """In place of `meta_training.train`: validates at every step with the accuracy that `accuracy` gives the k-th call.

    What it gives instead of a number is raised.
    """

    def __init__(self, accuracy: Callable[[int], float | BaseException]) -> None:
        self.accuracy = accuracy
        self.learners: list[LearnerSettings] = []
        self.configs: list[TrainConfig] = []
        self.validations: list[int] = []

    def __call__(
        self, domains: Any, encoder: str, learner: LearnerSettings, episodes: Any, config: TrainConfig, hook: Any
    ) -> dict[str, float]:
        accuracy = self.accuracy(len(self.learners))
        self.learners.append(learner)
        self.configs.append(config)
        self.validations.append(0)
        for step in range(1, config.meta_steps + 1):
            if not isinstance(accuracy, float):
                raise accuracy
            self.validations[-1] += 1
            hook({"step": step, "valid_loss": 1 - accuracy, "valid_accuracy": accuracy})
        return {"best_accuracy": float(accuracy), "best_loss": 1 / len(self.learners) + 0 * accuracy}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTraining]:
    def install(accuracy: Callable[[int], float | BaseException] = lambda k: 0.5 + 0.01 * k) -> FakeTraining:
        training = FakeTraining(accuracy)
        monkeypatch.setattr("metatext.search.search.train", training)
        monkeypatch.setattr("gc.collect", lambda: 0)  # after each trial; slow, and here there is nothing to collect
        return training

    return install


def settings(trials: int = 2, **changed: Any) -> SearchSettings:
    return SearchSettings(**{"space": NARROW, "trials": trials, "sampler": "random", "pruner": "none"} | changed)


def rows_of(job: Job) -> list[dict[str, str]]:
    with (Path(str(job.config.output)) / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- the study
def test_a_study_goes_on_until_it_has_its_trials(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    training, job = fake(), make_job()
    search(job, settings(2))
    before = rows_of(job)
    assert [row["trial"] for row in before] == ["0", "1"] and len(training.learners) == 2
    study = search(job, settings(5))
    assert len(training.learners) == 5 and len(finished(study)) == 5
    assert rows_of(job)[:2] == before and [row["trial"] for row in rows_of(job)] == list("01234")
    search(job, settings(5))
    assert len(training.learners) == 5
    assert len({learner.inner_lr for learner in training.learners}) == 5


def test_an_interruption_changes_no_draw(
    make_job: Callable[..., Job], fake: Callable[..., Any], tmp_path: Path
) -> None:
    whole, space = fake(), ("outer-lr", "inner-lr", "inner-steps", "scope", "order")
    search(make_job(output=str(tmp_path / "whole")), settings(11, sampler="tpe", space=space))  # the first 10 at random
    parts = fake()
    for trials in (3, 11):
        search(make_job(output=str(tmp_path / "parts")), settings(trials, sampler="tpe", space=space))
    assert parts.learners == whole.learners and parts.configs == whole.configs
    methods = {learner.method for learner in whole.learners}
    assert {"prototypical network", "full MAML", "first-order MAML"} <= methods


def test_interrupted_and_killed_trials_do_not_count(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    job = make_job()
    fake(lambda k: KeyboardInterrupt() if k == 1 else 0.5)
    with pytest.raises(KeyboardInterrupt):
        search(job, settings(3))
    training = fake()
    optuna.load_study(study_name="metatext", storage=f"sqlite:///{job.config.output}/study.db").ask()  # now killed
    search(job, settings(3))
    assert len(training.learners) == 2
    assert [row["state"] for row in rows_of(job)] == ["complete", "fail", "running", "complete", "complete"]


def test_machines_share_a_study(make_job: Callable[..., Job], fake: Callable[..., Any], tmp_path: Path) -> None:
    training, storage = fake(), f"sqlite:///{tmp_path / 'shared.db'}"
    one, other = make_job(output=str(tmp_path / "one")), make_job(output=str(tmp_path / "other"))
    search(one, settings(2, storage=storage))
    search(other, settings(4, storage=storage))
    assert len(training.learners) == 4 and len({learner.inner_lr for learner in training.learners}) == 4
    search(one, settings(4, storage=storage))
    assert len(training.learners) == 4 and rows_of(one) == rows_of(other) and len(rows_of(one)) == 4
    assert (tmp_path / "one" / "best.py").read_text() == (tmp_path / "other" / "best.py").read_text()
    search(make_job(output=str(tmp_path / "third")), settings(1, storage=storage, study="third"))
    assert len(training.learners) == 5


def test_a_grid_tries_every_combination_once(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    space = ("inner-lr=0.01..0.1", "inner-steps=1..2", "order=prototypical,full")
    training, job = fake(lambda k: KeyboardInterrupt() if k == 1 else 0.5), make_job()
    with pytest.raises(KeyboardInterrupt):
        search(job, settings(99, sampler="grid", space=space))
    study = search(job, settings(99, sampler="grid", space=space))
    tried = [tuple(trial.params.values()) for trial in finished(study)]
    assert sorted(tried) == [
        ("full", 0.01, 1),
        ("full", 0.01, 2),
        ("full", 0.1, 1),
        ("full", 0.1, 2),
        ("prototypical",),
    ]
    assert len(training.learners) == 6


# ---------------------------------------------------------------- pruning
@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_worse_than_the_others_is_pruned(
    make_job: Callable[..., Job], fake: Callable[..., Any], pruner: Any
) -> None:
    training, job = fake(lambda k: 0.1 if k == 5 else 0.9), make_job()
    study = search(job, settings(7, pruner=pruner))
    assert training.validations == [2, 2, 2, 2, 2, 1, 2]
    assert [row["state"] for row in rows_of(job)] == ["complete"] * 5 + ["pruned", "complete"]
    assert (rows_of(job)[5]["accuracy"], rows_of(job)[5]["step"]) == ("0.1000", "1")
    assert len(finished(study)) == 7


@pytest.mark.parametrize(("pruner", "steps"), [("none", 2), ("median", 1)])
def test_no_trial_is_pruned_when_that_is_off_or_at_its_last_validation(
    make_job: Callable[..., Job], fake: Callable[..., Any], pruner: Any, steps: int
) -> None:
    training = fake(lambda k: 0.1 if k == 5 else 0.9)
    job = make_job(meta_steps=steps)
    search(job, settings(6, pruner=pruner))
    assert training.validations == [steps] * 6
    assert [row["state"] for row in rows_of(job)] == ["complete"] * 6


@pytest.mark.parametrize(
    "failure", [FloatingPointError("diverged"), torch.OutOfMemoryError("too large"), float("nan")], ids=repr
)
def test_a_trial_that_cannot_be_trained_counts_as_pruned(
    make_job: Callable[..., Job], fake: Callable[..., Any], failure: float | BaseException
) -> None:
    training, job = fake(lambda k: failure), make_job()
    study = search(job, settings(2))
    assert len(training.learners) == 2 and best_of(study) is None
    assert [row["state"] for row in rows_of(job)] == ["pruned", "pruned"]
    assert not (Path(str(job.config.output)) / "best.py").exists()


# ---------------------------------------------------------------- what is written
def test_the_best_has_the_least_loss_among_equals(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    fake(lambda k: 0.3 if k == 3 else 0.8)
    study = search(make_job(), settings(4))
    best = best_of(study)
    assert best is not None and best.number == 2  # the later, the smaller is the loss of FakeTraining


def test_the_objective_may_be_the_loss(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    training, job = fake(lambda k: 0.1 if k == 5 else 0.8 + k / 100), make_job()
    best = best_of(search(job, settings(7, objective="loss", pruner="median")))
    assert training.validations == [2, 2, 2, 2, 2, 1, 2]
    assert best is not None and best.number == 6 and best.value == 1 / 7  # the loss of FakeTraining's best checkpoint
    assert [row["loss"] for row in rows_of(job)[4:]] == ["0.2000", "0.9000", "0.1429"]
    with pytest.raises(InputError, match="is a search with objective=loss, not accuracy"):
        search(job, settings(7))


def test_options_of_settings_give_the_settings_again() -> None:
    parts = (
        Table(text="body", clean=("urls", "topics"), encoding="gb18030"),
        EpisodeSettings(ways=3, valid_classes=("a b", "c")),
        LearnerSettings(
            scope="top:2", learn_inner_lr=False, kept_graphs="auto", text_prefix="query: ", inner_lr=0.1 / 3
        ),
        TrainConfig(outer_lr=1e-7 / 3, progress=False, mixed_precision="bf16", output="x"),
    )
    words = ["--source", "s", "--encoder", "e", *(word for part in parts for line in options_of(part) for word in line)]
    parsed = parse(Train, words)
    assert (parsed.table, parsed.episodes, parsed.learner, parsed.config) == parts
    assert options_of(LearnerSettings()) == []


def test_trials_train_and_the_best_is_what_its_script_trains(make_job: Callable[..., Job]) -> None:
    job = make_job()
    output = Path(str(job.config.output))
    study = search(job, settings(2, sampler="tpe", space=("inner-lr", "order=first-order,full", "inner-steps=1..2")))
    best = best_of(study)
    assert best is not None and len(finished(study)) == 2
    assert sorted(best.intermediate_values) == [1, 2] and best.value == max(best.intermediate_values.values())
    assert {p.name for p in output.iterdir()} - {"importances.svg"} == {
        "best.py",
        "search.json",
        "study.db",
        "trials.csv",
    }
    script: dict[str, Any] = {"__name__": "best"}
    exec((output / "best.py").read_text(encoding="utf-8"), script)
    main(["train", *script["TRAIN"], "--output", str(output / "again")])
    summary = json.loads((output / "again" / "training.json").read_text(encoding="utf-8"))
    assert summary["best_accuracy"] == best.value
    assert {v["step"]: v["valid_accuracy"] for v in summary["validation"]} == best.intermediate_values
    assert summary["best_loss"] == best.user_attrs["best_loss"]


def test_importances_are_drawn(make_job: Callable[..., Job], fake: Callable[..., Any]) -> None:
    pytest.importorskip("matplotlib")
    fake()
    job = make_job()
    search(job, settings(6, space=("inner-lr", "outer-lr", "order")))
    place = Path(str(job.config.output)) / "importances.svg"
    drawn = place.read_bytes()
    assert b"<svg" in drawn
    search(job, settings(6, space=("inner-lr", "outer-lr", "order")))
    assert place.read_bytes() == drawn


@pytest.mark.parametrize("missing", ["matplotlib", "difference"])
def test_missing_importances_are_said_so(
    make_job: Callable[..., Job],
    fake: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    fake(lambda k: 0.5 + k * (missing == "matplotlib"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    job = make_job()
    search(job, settings(2))
    why = {"matplotlib": "matplotlib is not installed", "difference": "two completed trials that differ"}[missing]
    assert f"no importances.svg: {why}" in caplog.text or f"no importances.svg: it takes {why}" in caplog.text
    assert not (Path(str(job.config.output)) / "importances.svg").exists()


# ---------------------------------------------------------------- what is refused
@pytest.fixture
def untrained(fake: Callable[..., Any]) -> Iterator[None]:
    """Nothing may be trained."""
    training = fake()
    yield
    assert not training.learners


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"episodes": EpisodeSettings(ways=2, shots=2, queries=3, valid_fraction=0.0)}, "needs validation on held-out"),
        ({"episodes": EpisodeSettings(ways=6, shots=2, queries=3)}, "needs validation on held-out"),
        ({"episodes": EpisodeSettings(ways=2, shots=5, queries=15)}, "domain 'a' has 0 classes with 20 distinct"),
        ({"learner": LearnerSettings(head="linear")}, "a prototype head"),
        ({"output": None}, "name a folder for the search: --output runs/name"),
        ({"resume": True}, "--resume is not for a search: repeat the command to go on"),
        ({"overwrite": True}, "--overwrite is not for a search"),
        ({"tracker": "tensorboard"}, "--tracker is not for a search"),
        ({"adversarial": 0.1}, "judged on source classes, which adversarial training is not for"),
        ({"encoder": "nowhere/at-all"}, "nowhere/at-all"),
        ({"first_order_fraction": 0.5}, "--space allows outer_lr 3e-06, .* but first_order_fraction needs"),
        (
            {"learner": LearnerSettings(second_order_steps=2)},
            r"--space allows .*, inner_steps 1, but second_order_steps must be from 0 to inner_steps \(1\), got 2",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    make_job: Callable[..., Job], tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        search(make_job(**changed), settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"source": 1},
            r"search is a search with sources=a \(48 rows\), b \(48 rows\), sha256 .*, not a \(48 rows\), s",
        ),
        (
            {"meta_steps": 5},
            "search is a search with meta_steps=2, not 5: repeat its options, or name another --output",
        ),
        ({"learner": LearnerSettings(scope="head")}, "with scope=all, not head"),
    ],
)
def test_a_study_of_another_search_is_refused(
    make_job: Callable[..., Job], fake: Callable[..., Any], tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    training, job, storage = fake(), make_job(), f"sqlite:///{tmp_path / 'shared.db'}"
    search(job, settings(1, storage=storage))
    if "source" in changed:
        changed = {"source": job.source[:1]}
    with pytest.raises(InputError, match=expected):
        search(make_job(**changed), settings(storage=storage))
    elsewhere = make_job(**changed | {"output": str(tmp_path / "elsewhere")})
    with pytest.raises(InputError, match=expected.replace("search is", "the study 'metatext' is")):
        search(elsewhere, settings(storage=storage))
    assert not list((tmp_path / "elsewhere").iterdir())
    with pytest.raises(InputError, match=r"with space=outer_lr=3e-06\.\.0\.0003 inner_lr=.*, not outer_lr=1e-05"):
        search(job, settings(space=("outer-lr=1e-5,1e-4",), storage=storage))
    search(make_job(learner=LearnerSettings(inner_lr=0.5)), settings(2, storage=storage))  # searched, so not compared
    assert len(training.learners) == 2


@pytest.mark.usefixtures("untrained")
def test_what_is_no_search_is_kept(make_job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="search already exists and holds no search: choose another output"):
        search(make_job(), settings())
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("storage", ["nonsense", "nonsense://host/name", "sqlite:////no/such/folder/study.db"])
def test_a_database_that_cannot_be_opened_is_refused(make_job: Callable[..., Job], storage: str) -> None:
    with pytest.raises(InputError, match=r"^--storage cannot be opened: .*[^\n]$"):
        search(make_job(), settings(storage=storage))


def test_a_missing_optuna_costs_one_sentence(sources: tuple[str, str], tmp_path: Path) -> None:
    words = ["search", "--source", *sources, "--encoder", "x", "--output", str(tmp_path / "search")]
    code = f"import sys; sys.modules['optuna'] = None; from metatext.cli.main import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    sentence = "metatext: metatext search needs optuna, which is not installed: pip install 'metatext[search]'\n"
    assert (done.stdout, done.stderr) == ("", sentence)


# ---------------------------------------------------------------- the command
@pytest.mark.slow
def test_search_in_a_process_of_its_own_and_its_script(
    sources: tuple[str, str],
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--ways", 2, "--shots", 2, "--queries", 3, "--meta-steps", 2, "--meta-batch-size", 1, "--eval-every", 1]
    small += ["--eval-episodes", 2, "--no-progress", "--space", "inner-lr", "inner-steps=1..2", "scope=all,head"]
    command = [sys.executable, "-m", "metatext", "search", "--source", *sources, "--encoder", tiny_bert]
    words = [str(word) for word in (*command, "--output", "found", "--trials", 2, *small)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.startswith("found: 2 trials, best validation accuracy ") and done.stdout.count("\n") == 1

    script, table = tmp_path / "found" / "best.py", tmp_path / "table.json"
    evaluation = ["--target", write_rows(tmp_path / "target.jsonl", 2), "--output", str(table), "--overwrite"]
    monkeypatch.setattr("sys.argv", [str(script), *evaluation, "--methods", "maml", "--shots", "1", "--draws", "2"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith(str(tmp_path / "found" / "trial-")) and "| first-order " in printed
    assert len(json.loads(table.read_text(encoding="utf-8"))["records"]) == 2
    runpy.run_path(str(script), run_name="__main__")
    assert "meta-steps" not in capsys.readouterr().out
