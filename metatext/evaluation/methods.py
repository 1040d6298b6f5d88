"""The rows of an evaluation: baselines, adapted learners, and ablations of the adaptation."""

from __future__ import annotations

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from metatext.adaptation.adapt import adapted_learner, fine_tuning_epochs, support_of
from metatext.adaptation.start_selection import choose_start, source_rows
from metatext.data.class_names import class_names_for, parse_class_names, readable_names, without_negations
from metatext.data.domains import Domain
from metatext.data.episodes import Examples
from metatext.errors import InputError
from metatext.evaluation import baselines
from metatext.evaluation.baselines import FrozenEncoder
from metatext.evaluation.class_name_baselines import class_names_alone, prototypes_with_names, usable_names
from metatext.evaluation.joint_training import source_classifier
from metatext.evaluation.report import UNLABELLED
from metatext.evaluation.scoring import Answer, Method, timed, timed_zero_shot
from metatext.evaluation.setfit import setfit
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import unlabelled_texts
from metatext.learners.heads import LinearHead, PrototypeHead
from metatext.learners.learner import Learner

METHODS = {
    "majority": "majority class",
    "names": "class names alone, no label",
    "tfidf": "TF-IDF + logistic regression",
    "centroid": "frozen encoder + nearest centroid",
    "frozen": "frozen encoder + logistic regression",
    "frozen+names": "frozen encoder + names",
    "setfit": "SetFit",
    "finetune": "fine-tuning the pretrained encoder",
    "probe": "linear probing, then fine-tuning",
    "source": "source classifier, no target label",
    "joint": "joint training, then fine-tuning",
    "no-meta-training": "the default adaptation, no meta-training",
    "maml": "the given learners, adapted",
    "unlabelled": "the same, with other texts of the target, unlabelled",
    "ablations": "the same with one part of adaptation changed",
}

NAME_METHODS = ("names", "frozen+names")
"""Baselines that read class names, and have no row without names."""


class Adaptation:
    """Makes methods that adapt a learner as `adapt` does and predict as the exported classifier would.

    Each test text is encoded once per blend for all draws and rows that neither fine-tune nor take inner steps.
    """

    def __init__(
        self, learner: Learner, class_names: Mapping[str, str] | None = None, needs_labels: bool = True
    ) -> None:
        self.learner, self.class_names, self.needs_labels = learner, class_names, needs_labels
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
        """Makes a method; without arguments, that of the default adaptation.

        Args:
            name: maps labels to class names. By default the class names of the constructor are used, as in `adapt`.
            steps: inner steps; see `adapted_learner`.
            epochs: passes of fine-tuning; see `fine_tuning_epochs`.
            target: source of unlabelled texts: up to 1,000 rows of the draw's classes that are neither in its support
                nor in its test texts. By default there are no unlabelled texts.
            alone: choose no start and run the inner loop of meta-training only.
            **how: `blend` and `sources` of `choose_start`.
        """

        needs_labels = self.needs_labels or name is not None or bool(steps) or alone
        name = name or partial(class_names_for, class_names=self.class_names)

        def answer(support: Examples, classes: Sequence[str], queries: Sequence[str]) -> Answer:
            support = support_of(support.texts, [classes[label] for label in support.labels], classes)
            unlabelled = unlabelled_texts(target, classes, {*support.texts, *queries}) if target else []
            start_time = time.perf_counter()
            start = None if alone else choose_start(self.learner, support, classes, name(classes), **how)
            tuning_epochs = fine_tuning_epochs(support, start, steps, epochs)
            with adapted_learner(self.learner, support, classes, start, steps, tuning_epochs, unlabelled) as layer:
                seconds = time.perf_counter() - start_time
                trained = start is None or steps or tuning_epochs
                encoder = FrozenEncoder(self.learner) if start is None or trained else self._blends[start.blend]
                prediction = baselines.classify(torch.from_numpy(encoder.queries(queries)), classes, layer)
            return Answer(prediction.labels, seconds, prediction.probabilities)

        return Method(answer, needs_labels)


def without_meta_training(
    encoder: Learner, class_names: Mapping[str, str] | None = None, needs_labels: bool = True
) -> Method:
    """The default adaptation of a pretrained encoder.

    Its blends of pretrained and meta-trained weights are all the same, so only one of them is tried.
    """
    plain = copy.copy(encoder)  # shares all weights
    plain.pretrained = None
    return Adaptation(plain, class_names, needs_labels)()


def ablations(adaptation: Adaptation) -> dict[str, Method]:
    """Ablations of the default adaptation: methods with one part changed, by the end of their row's name."""
    rows = {
        "without class names": adaptation(lambda classes: None),
        "without source classes": adaptation(sources=False),
    }
    if any((adaptation.class_names or {}).values()):
        rows["labels as class names"] = adaptation(readable_names)
    if adaptation.learner.pretrained is not None:
        rows |= {"meta-trained weights": adaptation(blend=1.0), "pretrained weights": adaptation(blend=0.0)}
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
    """Makes the methods of an evaluation, by the name of their row.

    Args:
        settings: `methods` are keys of `METHODS`.
        target: the target domain.
        encoder: returns the pretrained encoder; called only if a method needs it.
        joint: returns the classifier trained jointly on the sources; called only if a method needs it.
        learners: meta-trained learners by the name of their row.

    Raises:
        InputError: an unknown method.
    """
    tuning: dict[str, Any] = {name: getattr(settings, f"fine_tune_{name}") for name in ("steps", "epochs", "lr")}
    for key in settings.methods:
        if key not in METHODS:
            raise InputError(f"unknown method {key!r}: choose from {', '.join(METHODS)}")

    class_names = parse_class_names(settings.class_names) if settings.names else dict.fromkeys(target.classes, "")

    @cache
    def names() -> dict[str, str]:
        return usable_names(encoder(), target.classes, class_names)

    @cache
    def frozen() -> FrozenEncoder:
        return FrozenEncoder(encoder())

    makers: dict[str, Callable[[], Method]] = {
        "majority": lambda: timed(baselines.majority(target)),
        "names": lambda: timed_zero_shot(class_names_alone(frozen(), names())),
        "tfidf": lambda: timed(baselines.tfidf),
        "centroid": lambda: timed(baselines.centroid(frozen())),
        "frozen": lambda: timed(baselines.frozen(frozen())),
        "frozen+names": lambda: timed(prototypes_with_names(frozen(), names())),
        "setfit": lambda: timed(setfit(encoder(), settings.setfit_steps)),
        "finetune": lambda: timed(baselines.fine_tuning(encoder(), **tuning)),
        "probe": lambda: timed(baselines.fine_tuning(encoder(), **tuning, probe=True)),
        "source": lambda: timed_zero_shot(source_classifier(joint())),
        "joint": lambda: timed(baselines.fine_tuning(joint(), **tuning)),
        "no-meta-training": lambda: without_meta_training(encoder(), class_names, _lacks_names(names(), settings.ways)),
    }
    methods = {METHODS[key]: makers[key]() for key in METHODS if key in settings.methods and key in makers}
    for name, learner in learners.items():
        adaptation = Adaptation(
            learner, class_names, _needs_labels(learner, target.classes, class_names, settings.ways)
        )
        if "maml" in settings.methods:
            methods[name] = adaptation()
        if "unlabelled" in settings.methods and isinstance(learner.head, PrototypeHead):
            methods[name + UNLABELLED] = adaptation(target=target)
        if "ablations" in settings.methods and isinstance(learner.head, PrototypeHead):
            methods |= {f"{name}, {what}": run for what, run in ablations(adaptation).items()}
    return methods


def _needs_labels(learner: Learner, classes: Sequence[str], class_names: Mapping[str, str], ways: int | None) -> bool:
    """Whether a learner cannot adapt to a draw without labelled texts: it knows neither name nor source of a class."""
    readable = usable_names(learner, classes, class_names)
    of_sources = source_rows(learner, classes, class_names_for(classes, class_names))
    known = {label: readable[label] or (label if rows else "") for label, rows in zip(classes, of_sources, strict=True)}
    return isinstance(learner.head, LinearHead) or _lacks_names(known, ways)


def _lacks_names(names: Mapping[str, str], ways: int | None) -> bool:
    """Whether some classes of a draw may be unknown without a labelled text.

    Args:
        names: label -> name, of all classes of the target; empty if the encoder does not read it.
        ways: classes per draw; None for all.
    """
    together = itertools.combinations(names.values(), 2) if ways == 2 else [tuple(names.values())]
    return any(not all(without_negations(draw)) for draw in together)
