"""Benchmarks of whole tasks: sections lengths (real texts), processes (training) and adapt (few-shot fitting)."""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measured_methods import CLASSES, SHAPES, Floor, Metatext, TokenisedEachStep, make_episode, make_learner
from timing import Method, Options, Row, Tables, rounds, rows, run_worker, timed

from metatext import Domain, Episode, EpisodeSampler, Learner
from metatext.data.episodes import Examples

DATA = Path(__file__).resolve().parents[1] / "data"


def lengths(name: str, options: Options) -> Tables:
    """Times episodes of real texts: packed batches against one padded batch, and tokenising once against every step."""
    from metatext.encoders.tokenization import load_tokenizer

    shape, steps, tables = SHAPES[name], {"tiny": 5, "minilm": 2}[name], Tables()
    tokenizer = load_tokenizer(DATA / "encoder")
    for path in options.texts or (str(DATA / "news.jsonl"), str(DATA / "weibo_topics.jsonl")):
        domain = Domain.from_file(path)
        sampler = EpisodeSampler([domain], ways=5, shots=5, queries=5, seed=0)
        episodes = [sampler[i] for i in range(options.repeats)]
        packed = Metatext(shape, tokenizer=tokenizer, inner_steps=steps, classes=domain.classes, max_length=128)
        base = packed.learner
        methods: dict[str, Method] = {
            "floor, one batch padded to its longest text": _HeadLabels(Floor(base, steps)),
            "first order, short texts share a line": packed,
            "tokenised every step, padded to 64": _HeadLabels(TokenisedEachStep(base, steps, 64)),
            "tokenised every step, padded to 128": _HeadLabels(TokenisedEachStep(base, steps, 128)),
        }
        ids = [base.tokens.ids(e.support.texts) for e in episodes]
        tokens = sum(len(text) for batch in ids for text in batch)
        tokens_cut_to_64 = sum(min(len(text), 64) for batch in ids for text in batch)
        padded = sum(len(batch) * max(map(len, batch)) for batch in ids)
        packed_size = sum(b.input_ids.numel() for e in episodes for b, _ in base.batches(e.support).batches)
        count = sum(map(len, ids))
        padding = [
            1 - tokens / padded,
            1 - tokens / packed_size,
            1 - tokens_cut_to_64 / (64 * count),
            1 - tokens / (128 * count),
        ]
        for method in methods.values():
            method.prepare(episodes[0])
            method.run()
            method.restore()
        base.tokens = copy.deepcopy(
            base.tokens
        )  # the copy's cache is empty, so that tokenising is timed in every round
        table = rows(rounds(methods, episodes, options.repeats, options.seconds), next(iter(methods)))
        for row, share in zip(table, padding, strict=True):
            row["padding"] = f"{share:.0%}"
        lengths_seen = sorted(len(text) for batch in ids for text in batch)
        median = statistics.median(lengths_seen)
        tables[f"{shape.title}, {domain.name}: median {median:.0f} tokens, longest {lengths_seen[-1]}"] = table
    return tables


class _HeadLabels:
    """Runs the floor on episodes of any classes. It replaces a label by the row of its class in the learner's head."""

    def __init__(self, method: Floor) -> None:
        self.method, self.run, self.restore = method, method.run, method.restore

    def prepare(self, episode: Episode) -> None:
        """Sets the episode of the next run."""
        head_classes = self.method.model.head.classes
        head_rows = [head_classes.index(name) for name in episode.classes]
        support, query = (
            Examples(e.texts, [head_rows[label] for label in e.labels]) for e in (episode.support, episode.query)
        )
        self.method.prepare(Episode(episode.domain, episode.classes, support, query))


def processes(name: str, options: Options) -> Tables:
    """Measures the episodes per second of MetaTrainer with one process and with two, one thread each."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
    table = [{"processes": n} | run_worker("processes", name, launcher=(*launcher, str(n))) for n in (1, 2)]
    for row in table:
        row["x one process"] = row["episodes/s"] / table[0]["episodes/s"]
    return {f"{SHAPES[name].title}, 32 tokens, first order, 5 inner steps": table}


def measure_processes(name: str) -> Row:
    """Returns the episodes per second of some outer steps, after one that is not timed. It runs in each process."""
    from metatext import MetaTrainer, TrainConfig

    torch.set_num_threads(1)
    shape, (steps, batch) = SHAPES[name], {"tiny": (12, 4), "minilm": (2, 2)}[name]
    episodes = [make_episode(shape.vocabulary, 32, seed) for seed in range(4)]
    domain = Domain.from_records(
        [text for e in episodes for text in e.support.texts + e.query.texts],
        [CLASSES[label] for e in episodes for label in e.support.labels + e.query.labels],
        name="random words",
    )
    sampler = EpisodeSampler([domain], ways=5, shots=5, queries=5, shared_labels=True)
    for count in (1, steps):
        config = TrainConfig(meta_steps=count, meta_batch_size=batch, progress=False)
        summary = MetaTrainer(make_learner(shape, inner_steps=5), sampler, config=config).train()
    return {"episodes/s": batch * steps / summary["seconds"]}


def adapt(name: str, options: Options) -> Tables:
    """Times fitting a classifier to 5 texts per class with the encoder in data/: metatext, Trainer and SetFit."""
    from metatext import FewShotClassifier

    rng = random.Random(0)
    files = ("news.jsonl", "weibo_topics.jsonl", "weibo_new_topics.jsonl")
    texts = [text for file in files for text in Domain.from_file(DATA / file).texts]
    learner = Learner.from_pretrained(DATA / "encoder", inner_steps=5)
    learner.meta_trained = True
    tables = Tables()
    for ways in (5, 100):
        chosen = rng.sample(texts, 5 * ways)
        labels = [i % ways for i in range(5 * ways)]
        fits: dict[str, Callable[[], Any]] = {
            "FewShotClassifier.fit, 5 steps": partial(FewShotClassifier(learner, steps=5).fit, chosen, labels),
            "FewShotClassifier.fit, as it comes": partial(FewShotClassifier(learner).fit, chosen, labels),
            "FewShotClassifier.fit, no fine-tuning": partial(FewShotClassifier(learner, epochs=0).fit, chosen, labels),
            "transformers.Trainer, 5 steps of all texts": partial(_trainer, chosen, labels, ways),
        }
        times: dict[str, list[float]] = {method: [] for method in fits}
        for number in range(1 + (options.repeats if ways == 5 else min(options.repeats, 2))):
            for method, fit in fits.items():
                seconds = timed(fit)
                if number:
                    times[method].append(seconds)
        table = rows(times, next(iter(times)))
        for row in table:
            row["x FewShotClassifier"] = row.pop("x floor")
        table.append(_setfit(chosen, labels, ways, table[0]["ms"]))
        tables[f"{ways} classes x 5 texts, {DATA.name}/encoder (3 x 256)"] = table
    return tables


def _trainer(texts: list[str], labels: list[int], ways: int) -> None:
    """Loads the encoder and fine-tunes it with transformers' Trainer: 5 steps, each over all texts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(DATA / "encoder")
    model = AutoModelForSequenceClassification.from_pretrained(DATA / "encoder", num_labels=ways)
    encoded = tokenizer(texts, truncation=True)["input_ids"]
    data: Any = [{"input_ids": i, "labels": label} for i, label in zip(encoded, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=5, per_device_train_batch_size=64, gradient_accumulation_steps=-(-len(texts) // 64),
            learning_rate=1e-3, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
            use_cpu=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, processing_class=tokenizer).train()


def _setfit(texts: list[str], labels: list[int], ways: int, metatext_ms: float) -> Row:
    """Returns the row of SetFit: its time, or the reason why it was not measured.

    Args:
        texts: 5 texts per class.
        labels: class of each text.
        ways: number of classes.
        metatext_ms: milliseconds of metatext, for the ratio.
    """
    row: Row = {"method": "SetFit, its defaults"}
    positive, pairs = ways * 5 * 4 // 2, len(texts) * (len(texts) - 1) // 2
    steps = -(-2 * max(positive, pairs - positive) // 16)  # oversampling balances positive and negative pairs
    try:
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments

        if steps > 1000:
            return row | {"why not": f"about {steps:,} steps of 16 pairs"}
        model = SetFitModel.from_pretrained(str(DATA / "encoder"))
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(output_dir=folder, report_to="none", show_progress_bar=False)
            trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict({"text": texts, "label": labels}))
            seconds = timed(trainer.train)
    except Exception as error:  # setfit may not fit this transformers: any error is the row's result
        return row | {"why not": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return row | {"ms": 1e3 * seconds, "x FewShotClassifier": 1e3 * seconds / metatext_ms, "rounds": 1}
