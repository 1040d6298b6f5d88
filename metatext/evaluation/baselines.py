"""The baselines of `metatext evaluate`: common alternatives to meta-learning.

A baseline is a function `fit(texts, labels)` that returns `predict(texts) -> Prediction`. A zero-shot baseline needs no
labelled texts: it is a function `fit(classes)`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from metatext.data.domains import Domain
from metatext.data.episodes import Examples
from metatext.learners.heads import LinearHead, LinearLayer
from metatext.learners.learner import Learner
from metatext.training.schedules import learning_rate, shuffled_batches


class Prediction(NamedTuple):
    """Predicted labels."""

    labels: list[str]
    """The label of each text."""
    probabilities: np.ndarray | None = None
    """Probabilities of these labels, (texts,); None if the method gives none."""


Predict = Callable[[Sequence[str]], Prediction]
Fit = Callable[[Sequence[str], Sequence[str]], Predict]
ZeroShotFit = Callable[[Sequence[str]], Predict]


def majority(target: Domain) -> Fit:
    """The majority class: always predicts the support class that is most frequent in the target.

    Example:
        >>> target = Domain.from_records(["up", "down", "high"], ["+", "-", "+"], name="moves")
        >>> majority(target)(["up", "down"], ["+", "-"])(["low", "top"]).labels
        ['+', '+']
    """
    counts = Counter(target.labels)

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        label = max(sorted(set(labels)), key=lambda name: counts[name])
        return lambda queries: Prediction([label] * len(queries))

    return fit


def most_probable(classes: Sequence[str], probabilities: np.ndarray) -> Prediction:
    """Predicts the most probable class of each text, from probabilities (texts, classes)."""
    return Prediction([classes[i] for i in probabilities.argmax(1)], probabilities.max(1))


def tfidf(texts: Sequence[str], labels: Sequence[str]) -> Predict:
    """Logistic regression on TF-IDF of character 1- to 3-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    model = make_pipeline(vectors, LogisticRegression(C=10, max_iter=1000)).fit(list(texts), list(labels))
    return lambda queries: most_probable(model.classes_.tolist(), model.predict_proba(list(queries)))


class FrozenEncoder:
    """An encoder with fixed weights, which encodes each query text once for all baselines and draws that share it."""

    def __init__(self, encoder: Learner) -> None:
        self.encoder, self._query_vectors = encoder, dict[str, np.ndarray]()

    def support(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes support texts, (texts, hidden), without the cache, so that the time of a fit includes it."""
        return self.encoder.encode(texts).numpy()

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes query texts, (texts, hidden), or takes them from the cache."""
        new = [text for text in dict.fromkeys(texts) if text not in self._query_vectors]
        if new:
            self._query_vectors.update(zip(new, self.encoder.encode(new).numpy(), strict=True))
        return np.stack([self._query_vectors[text] for text in texts])


def logistic_regression(vectors: np.ndarray, labels: Sequence[str]) -> Any:
    """Fits scikit-learn's logistic regression to vectors (texts, hidden)."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=1000).fit(vectors, list(labels))


def frozen(encoder: FrozenEncoder) -> Fit:
    """Logistic regression on the vectors of a frozen encoder."""

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        model = logistic_regression(encoder.support(texts), labels)
        return lambda queries: most_probable(model.classes_.tolist(), model.predict_proba(encoder.queries(queries)))

    return fit


def centroid(encoder: FrozenEncoder) -> Fit:
    """Nearest centroid (Euclidean distance) in the vectors of a frozen encoder."""
    from sklearn.metrics import pairwise_distances_argmin

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        classes, vectors = np.unique(labels), encoder.support(texts)
        means = np.stack([vectors[np.asarray(labels) == name].mean(0) for name in classes])
        return lambda queries: Prediction(classes[pairwise_distances_argmin(encoder.queries(queries), means)].tolist())

    return fit


def with_linear_head(start: Learner, classes: Sequence[str]) -> Learner:
    """Copies `start` with a linear head for `classes`; rows that `start` lacks are zero."""
    model = copy.deepcopy(start)
    model.settings = dataclasses.replace(start.settings, head="linear", classes=tuple(classes))
    head = LinearHead(classes, start.encoder.config.hidden_size).to(start.device)
    with torch.no_grad():
        for row, name in enumerate(classes):
            if isinstance(start.head, LinearHead) and name in start.head.classes:
                head.weight[row] = start.head.weight[start.head.classes.index(name)]
                head.bias[row] = start.head.bias[start.head.classes.index(name)]
    model.head = head
    return model


def train_classifier(
    model: Learner,
    texts: Sequence[str],
    labels: Sequence[str],
    steps: int,
    batch_size: int,
    lr: float,
    seed: int = 0,
    progress: str | None = None,
) -> None:
    """Trains the encoder and the linear head of `model` in place, by ordinary supervised training.

    AdamW with bias correction, 10% warm-up and linear decay (Mosbach 2021), over shuffled epochs.

    Args:
        model: a learner with a linear head.
        texts: training texts.
        labels: the label of each text.
        steps: optimizer steps.
        batch_size: texts per step.
        lr: peak learning rate of the encoder; that of the head is 1e-3.
        seed: of the shuffling.
        progress: title of the progress bar; None shows none.
    """
    assert isinstance(model.head, LinearHead)
    targets = torch.tensor([model.head.classes.index(label) for label in labels], device=model.device)
    groups = [{"params": model.encoder.parameters(), "lr": lr}, {"params": model.head.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, 0.1))
    layer = LinearLayer(model.head.weight, model.head.bias)
    batches = shuffled_batches(len(texts), batch_size, steps, seed)
    for rows in tqdm(batches, progress, steps, unit="step", disable=progress is None):
        examples = Examples([texts[row] for row in rows], targets[rows].tolist())
        for batch, batch_labels in model.batches(examples).batches:
            loss = model.loss(batch, batch_labels, layer)[0] / len(rows)
            loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.encoder.parameters(), *model.head.parameters()], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def classify(vectors: Tensor, classes: Sequence[str], layer: LinearLayer) -> Prediction:
    """Classifies vectors (texts, hidden) by a linear layer with one row per class."""
    logits = layer.logits(vectors.to(layer.weight.device))  # (texts, classes)
    return most_probable(classes, logits.softmax(1).cpu().numpy())


def start_at_probe(model: Learner, texts: Sequence[str], labels: Sequence[str]) -> None:
    """Sets the linear head to a logistic regression on the model's vectors of the texts."""
    assert isinstance(model.head, LinearHead)
    probe = logistic_regression(model.encode(texts).numpy(), labels)
    weight, bias = torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)
    if len(probe.classes_) == 2:  # scikit-learn has one row then: the log odds of the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    rows = [model.head.classes.index(name) for name in probe.classes_]
    with torch.no_grad():
        model.head.weight[rows] = weight.to(model.head.weight)
        model.head.bias[rows] = bias.to(model.head.bias)


def fine_tuning(
    start: Learner, *, steps: int = 40, epochs: float = 0.0, batch_size: int = 16, lr: float = 1e-4, probe: bool = False
) -> Fit:
    """Fine-tunes all weights on the support.

    Args:
        start: a pretrained encoder or a jointly trained classifier. It is not changed.
        steps: minimum number of AdamW steps.
        epochs: minimum number of passes over the support.
        batch_size: texts per step.
        lr: peak learning rate of the encoder.
        probe: initialise the head by linear probing (Kumar 2022). By default the head has the rows of `start`, and
            zeros for classes that `start` lacks.
    """

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        classes = sorted(set(labels))
        model = with_linear_head(start, classes)
        if probe:
            start_at_probe(model, texts, labels)
        total_steps = max(steps, math.ceil(epochs * len(texts) / batch_size))
        train_classifier(model, texts, labels, total_steps, batch_size, lr)
        return lambda queries: classify(model.encode(queries), classes, model.head.start(classes, None))

    return fit
