"""Methods and baselines on the same draws of a target domain."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from tqdm.auto import tqdm

from metatext import baselines
from metatext.adapt import passes, ready
from metatext.baselines import Fit, FrozenEncoder
from metatext.domains import Domain
from metatext.draws import Draw, unlabelled_texts
from metatext.errors import InputError
from metatext.files import write_text
from metatext.heads import PrototypeHead
from metatext.learner import Learner
from metatext.names import called, readable
from metatext.records import Record
from metatext.report import UNLABELLED
from metatext.setfit import setfit
from metatext.settings import EvaluateSettings, names_by_label
from metatext.start import choose
from metatext.statistics import calibration_error
from metatext.tasks import Examples

METHODS = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "centroid": "frozen encoder + nearest centroid",
    "frozen": "frozen encoder + logistic regression",
    "setfit": "SetFit",
    "finetune": "fine-tuning the pretrained encoder",
    "probe": "linear probing, then fine-tuning",
    "source": "source classifier, no target label",
    "joint": "joint training, then fine-tuning",
    "maml": "the given learners, adapted",
    "unlabelled": "the same, with other texts of the target, unlabelled",
    "ablations": "the same with one part of adaptation changed",
}


class Answer(NamedTuple):
    """Predicted labels of the test texts, the seconds that fitting took, and how probable the labels are said to be."""

    labels: list[str]
    fit_seconds: float
    probabilities: np.ndarray | None = None  # (texts,)


Method = Callable[[Sequence[str], Sequence[str], Sequence[str]], Answer]
"""(support texts, support labels, test texts) -> answer."""


def timed(fit: Fit) -> Method:
    """A baseline as a method."""

    def run(texts: Sequence[str], labels: Sequence[str], queries: Sequence[str]) -> Answer:
        start = time.perf_counter()
        predict = fit(texts, labels)
        seconds = time.perf_counter() - start
        found = predict(queries)
        return Answer(found.labels, seconds, found.probabilities)

    return run


class Adaptation:
    """What `adapt` does with a learner, judged as its exported classifier would be.

    While a draw moves no weights but to another blend, each test text is encoded once a blend, for all draws and rows.
    """

    def __init__(self, learner: Learner, class_names: Mapping[str, str] | None = None) -> None:
        self.learner, self.class_names = learner, class_names
        self._blends: dict[float, FrozenEncoder] = defaultdict(lambda: FrozenEncoder(learner))

    def __call__(
        self,
        name: Callable[[Sequence[str]], list[str] | None] | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        target: Domain | None = None,
        alone: bool = False,
        **how: Any,
    ) -> Method:
        """The default adaptation, or another.

        Args:
            name: gives what the labels are called; by default the class names do, as in `adapt`.
            steps: of the inner loop.
            epochs: of fine-tuning.
            target: where unlabelled texts come from: rows of a draw's classes that are neither its support nor its
                test, 1,000 at most; by default there are none.
            alone: leave out the choice of a start: the inner loop of meta-training, on the texts alone.
            **how: arguments of `metatext.start.choose`.
        """

        name = name or partial(called, class_names=self.class_names)

        def run(texts: Sequence[str], labels: Sequence[str], queries: Sequence[str]) -> Answer:
            classes = sorted(set(labels))
            support = Examples(list(texts), [classes.index(label) for label in labels])
            more = unlabelled_texts(target, classes, {*texts, *queries}) if target else []
            began = time.perf_counter()
            start = None if alone else choose(self.learner, support, classes, name(classes), **how)
            tuning = passes(support, start, steps, epochs)
            with ready(self.learner, support, classes, start, steps, tuning, more) as layer:
                seconds = time.perf_counter() - began
                moved = start is None or steps or tuning
                encoder = FrozenEncoder(self.learner) if start is None or moved else self._blends[start.share]
                found = baselines.classify(torch.from_numpy(encoder.queries(queries)), classes, layer)
            return Answer(found.labels, seconds, found.probabilities)

        return run


def ablations(adaptation: Adaptation) -> dict[str, Method]:
    """The default adaptation with one part changed, by what is changed."""
    rows = {
        "without class names": adaptation(lambda classes: None),
        "without source classes": adaptation(sources=False),
    }
    if adaptation.class_names:
        rows["labels as class names"] = adaptation(readable)
    if adaptation.learner.pretrained is not None:
        rows |= {"meta-trained weights": adaptation(share=1.0), "pretrained weights": adaptation(share=0.0)}
    rows["without fine-tuning"] = adaptation(epochs=0)
    if inner_steps := adaptation.learner.settings.inner_steps:
        rows["inner steps in place of fine-tuning"] = adaptation(steps=inner_steps)
    rows["the inner loop alone"] = adaptation(alone=True)
    return rows


def make_methods(
    settings: EvaluateSettings,
    target: Domain,
    encoder: Callable[[], Learner],
    joint: Callable[[], Learner],
    learners: Mapping[str, Learner],
) -> dict[str, Method]:
    """The methods of a table, by the name of their row.

    Args:
        settings: `methods` are keys of `METHODS`.
        target: the target domain, for its most frequent label.
        encoder: gives the pretrained encoder (asked only if a wanted method needs it).
        joint: gives the classifier trained jointly on the sources (likewise).
        learners: meta-trained learners by the name of their row.

    Raises:
        InputError: an unknown method.
    """
    wanted = settings.methods
    tuning: dict[str, Any] = {name: getattr(settings, f"fine_tune_{name}") for name in ("steps", "epochs", "lr")}
    for key in wanted:
        if key not in METHODS:
            raise InputError(f"unknown method {key!r}: choose from {', '.join(METHODS)}")

    @cache
    def frozen() -> FrozenEncoder:
        return FrozenEncoder(encoder())

    makers: dict[str, Callable[[], Method]] = {
        "majority": lambda: timed(baselines.majority(target)),
        "tfidf": lambda: timed(baselines.tfidf),
        "centroid": lambda: timed(baselines.centroid(frozen())),
        "frozen": lambda: timed(baselines.frozen(frozen())),
        "setfit": lambda: timed(setfit(encoder(), settings.setfit_steps)),
        "finetune": lambda: timed(baselines.fine_tuning(encoder(), **tuning)),
        "probe": lambda: timed(baselines.fine_tuning(encoder(), **tuning, probe=True)),
        "source": lambda: timed(baselines.source_classifier(joint())),
        "joint": lambda: timed(baselines.fine_tuning(joint(), **tuning)),
    }
    methods = {METHODS[key]: makers[key]() for key in METHODS if key in wanted and key in makers}
    for name, learner in learners.items():
        adaptation = Adaptation(learner, names_by_label(settings.class_names))
        if "maml" in wanted:
            methods[name] = adaptation()
        if "unlabelled" in wanted and isinstance(learner.head, PrototypeHead):
            methods[name + UNLABELLED] = adaptation(target=target)
        if "ablations" in wanted and isinstance(learner.head, PrototypeHead):
            methods |= {f"{name}, {what}": run for what, run in ablations(adaptation).items()}
    return methods


def run_methods(
    methods: Mapping[str, Method],
    draws: Sequence[Draw],
    progress: bool = True,
    log: Path | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[Record]:
    """Judges every method on every draw.

    Args:
        methods: by the name of their row.
        draws: what they are judged on.
        progress: show a progress bar.
        log: JSON-lines file that gets each record as it comes; those that it holds already are not made again, so a
            long evaluation goes on where it was interrupted. The caller answers for the file's being of these draws.
        weights: digest of a method's weights; a logged record of the method counts only if it has the same.

    Returns:
        One record a method and draw.
    """
    weights = weights or {}
    known = {(r["method"], r["weights"], r["shots"], r["draw"]): r for r in _logged(log)}
    records = list[Record]()
    bar = tqdm(total=len(methods) * len(draws), unit="fit", disable=not progress, dynamic_ncols=True)
    for name, method in methods.items():
        bar.set_description(name[:30])
        for draw in draws:
            if record := known.get((name, weights.get(name), draw.shots, draw.number)):
                records.append(record)
                bar.update()
                continue
            records.append(_judge(name, weights.get(name), method, draw))
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            bar.update()
    bar.close()
    return records


def _judge(name: str, weights: str | None, method: Method, draw: Draw) -> Record:
    texts, labels = zip(*draw.support, strict=True)
    answer = method(texts, labels, [text for text, _ in draw.test])
    truth = [label for _, label in draw.test]
    pairs = list(zip(truth, answer.labels, strict=True))
    error = None
    if answer.probabilities is not None:
        error = calibration_error(answer.probabilities, [label == given for label, given in pairs])
    confusion: dict[str, dict[str, int]] = {}
    for (label, given), count in sorted(Counter(pairs).items()):
        confusion.setdefault(label, {})[given] = count
    return Record(
        method=name,
        weights=weights,
        shots=draw.shots,
        draw=draw.number,
        test_rows=len(truth),
        accuracy=float(accuracy_score(truth, answer.labels)),
        macro_f1=float(f1_score(truth, answer.labels, labels=sorted(set(truth)), average="macro", zero_division=0)),
        calibration_error=error,
        fit_seconds=round(answer.fit_seconds, 3),
        confusion=confusion,
    )


def _logged(log: Path | None) -> list[Record]:
    """The records of a log; a last line that an interruption cut is taken off."""
    if not log or not log.exists():
        return []
    whole, _, cut = log.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        write_text(log, whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]
