"""What a user sees: real texts, several processes, and a classifier from a few labelled texts."""

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
from measured_methods import CLASSES, SHAPES, Floor, Ours, TokenisedEachStep, make_episode, make_learner
from timing import Method, Options, Row, Tables, rounds, rows, timed, worker

from metatext import Domain, EpisodeSampler, Learner
from metatext.data.episodes import Examples

DATA = Path(__file__).resolve().parents[1] / "data"


# ------------------------------------------------------------------------------------------- C: real lengths
def lengths(name: str, options: Options) -> Tables:
    """Real texts: texts that share lines against one padded batch, and tokenising once against at every step."""
    from metatext.encoders.tokenization import load_tokenizer

    shape, steps, tables = SHAPES[name], {"tiny": 5, "minilm": 2}[name], Tables()
    tokenizer = load_tokenizer(DATA / "encoder")
    for path in options.texts or (str(DATA / "news.jsonl"), str(DATA / "weibo_topics.jsonl")):
        domain = Domain.from_file(path)
        sampler = EpisodeSampler([domain], ways=5, shots=5, queries=5, seed=0)
        episodes = [sampler[i] for i in range(options.repeats)]
        ours = Ours(shape, tokenizer=tokenizer, inner_steps=steps, classes=domain.classes, max_length=128)
        base = ours.learner
        methods: dict[str, Method] = {
            "floor, one batch padded to its longest text": _AnyClasses(Floor(base, steps)),
            "first order, short texts share a line": ours,
            "tokenised every step, padded to 64": _AnyClasses(TokenisedEachStep(base, steps, 64)),
            "tokenised every step, padded to 128": _AnyClasses(TokenisedEachStep(base, steps, 128)),
        }
        ids = [base.tokens.ids(e.support.texts) for e in episodes]
        real = sum(len(text) for batch in ids for text in batch)
        cut64 = sum(min(len(text), 64) for batch in ids for text in batch)
        longest = sum(len(batch) * max(map(len, batch)) for batch in ids)
        shared = sum(b.input_ids.numel() for e in episodes for b, _ in base.batches(e.support).batches)
        count = sum(map(len, ids))
        padding = [1 - real / longest, 1 - real / shared, 1 - cut64 / (64 * count), 1 - real / (128 * count)]
        for method in methods.values():
            method.prepare(episodes[0])
            method.run()
            method.restore()
        base.tokens = copy.deepcopy(base.tokens)  # empty: texts are new in every round, and tokenised within the timing
        table = rows(rounds(methods, episodes, options.repeats, options.seconds), next(iter(methods)))
        for row, share in zip(table, padding, strict=True):
            row["padding"] = f"{share:.0%}"
        lengths_seen = sorted(len(text) for batch in ids for text in batch)
        median = statistics.median(lengths_seen)
        tables[f"{shape.title}, {domain.name}: median {median:.0f} tokens, longest {lengths_seen[-1]}"] = table
    return tables


class _AnyClasses:
    """The floor knows one order of classes: an episode's labels are its classes' rows in the learner's head."""

    def __init__(self, method: Floor) -> None:
        self.method, self.run, self.restore = method, method.run, method.restore

    def prepare(self, episode: Any) -> None:
        known: Any = self.method.model.head.classes
        number = [known.index(c) for c in episode.classes]
        support, query = (Examples(e.texts, [number[i] for i in e.labels]) for e in (episode.support, episode.query))
        self.method.prepare(type(episode)(episode.domain, episode.classes, support, query))


# ------------------------------------------------------------------------------------------- D: processes
def processes(name: str, options: Options) -> Tables:
    """Episodes a second of MetaTrainer: one process against two that share the episodes, one thread each."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
    table = [{"processes": n} | worker("processes", name, launcher=(*launcher, str(n))) for n in (1, 2)]
    for row in table:
        row["x one process"] = row["episodes/s"] / table[0]["episodes/s"]
    return {f"{SHAPES[name].title}, 32 tokens, first order, 5 inner steps": table}


def processes_cell(name: str) -> Row:
    """In each process: the seconds of some outer steps, after one that is not timed."""
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


# ------------------------------------------------------------------------------------------- E: adaptation
def adapt(name: str, options: Options) -> Tables:
    """A fit of a few texts, with the encoder in data/: metatext, transformers' Trainer, SetFit."""
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
        ways_to_fit: dict[str, Callable[[], Any]] = {
            "FewShotClassifier.fit, 5 steps": partial(FewShotClassifier(learner, steps=5).fit, chosen, labels),
            "FewShotClassifier.fit, as it comes": partial(FewShotClassifier(learner).fit, chosen, labels),
            "FewShotClassifier.fit, no fine-tuning": partial(FewShotClassifier(learner, epochs=0).fit, chosen, labels),
            "transformers.Trainer, 5 steps of all texts": partial(_trainer, chosen, labels, ways),
        }
        times: dict[str, list[float]] = {method: [] for method in ways_to_fit}
        for number in range(1 + (options.repeats if ways == 5 else min(options.repeats, 2))):
            for method, fit in ways_to_fit.items():
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


def _setfit(texts: list[str], labels: list[int], ways: int, ours: float) -> Row:
    row: Row = {"method": "SetFit, its defaults"}
    positive, pairs = ways * 5 * 4 // 2, len(texts) * (len(texts) - 1) // 2
    steps = -(-2 * max(positive, pairs - positive) // 16)  # oversampling makes as many positive pairs as negative
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
    except Exception as error:  # whatever an outside package of another transformers raises is this row's result
        return row | {"why not": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return row | {"ms": 1e3 * seconds, "x FewShotClassifier": 1e3 * seconds / ours, "rounds": 1}
