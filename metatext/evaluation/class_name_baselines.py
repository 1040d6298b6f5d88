"""Baselines that read class names: without any label, and together with labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import softmax

from metatext.adaptation.start import encoded_names
from metatext.data.class_names import class_names_for
from metatext.evaluation.baselines import Fit, FrozenEncoder, Predict, Prediction, ZeroShotFit, most_probable
from metatext.learners.learner import Learner

COSINE_SCALE = 20.0
"""Scale of the cosines before the softmax: that of sentence-transformers' `MultipleNegativesRankingLoss`."""

NAME_WEIGHT = 2.0
"""Number of texts that the direction of a class name counts as."""


def usable_names(encoder: Learner, classes: Sequence[str], class_names: Mapping[str, str]) -> dict[str, str]:
    """Returns label -> name; the name is empty if the label says nothing or the encoder has no words for it.

    Args:
        encoder: its vocabulary decides.
        classes: the labels.
        class_names: names given by the user. By default a label is its own name.
    """
    return dict(zip(classes, encoder.tokens.readable(class_names_for(classes, class_names)), strict=True))


def class_names_alone(encoder: FrozenEncoder, names: Mapping[str, str]) -> ZeroShotFit:
    """Predicts the class whose encoded name is nearest to the encoded text, by cosine similarity.

    The probabilities are the softmax of the cosines times `COSINE_SCALE`.

    Args:
        encoder: a pretrained encoder.
        names: label -> name. A class with an empty name is never predicted, unless no class of the task has a name:
            then the labels are encoded, whatever they are.
    """

    def fit(classes: Sequence[str]) -> Predict:
        named = [label for label in classes if names[label]] or list(classes)
        name_directions = _unit(_encoded(encoder, [names[label] or label for label in named]))  # (named, hidden)

        def predict(queries: Sequence[str]) -> Prediction:
            cosines = _unit(encoder.queries(queries)) @ name_directions.T  # (texts, named)
            return most_probable(named, softmax(COSINE_SCALE * cosines, axis=1))

        return predict

    return fit


def prototypes_with_names(encoder: FrozenEncoder, names: Mapping[str, str]) -> Fit:
    """Nearest prototype by cosine similarity, where the name of a class counts as `NAME_WEIGHT` of its texts.

    Texts become unit directions from the centre, the mean of the class means. Names become unit directions from the
    mean of the encoded names, because names and texts lie apart. The prototype of a class is the sum of the directions
    of its texts and `NAME_WEIGHT` times that of its name.

    Of two candidates this was the better one on average over seven targets at 1, 2, 5, 10 and 20 labels a class. The
    other was logistic regression with each class name as one more text of its class.

    Args:
        encoder: a pretrained encoder.
        names: label -> name. A class with an empty name is the sum of its texts alone.
    """

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        classes, rows = np.unique(labels, return_inverse=True)
        vectors = encoder.support(texts)
        centre = np.stack([vectors[rows == row].mean(0) for row in range(len(classes))]).mean(0)
        prototypes = np.zeros_like(vectors, shape=(len(classes), vectors.shape[1]))
        named = [row for row, label in enumerate(classes) if names[label]]
        if len(named) > 1:  # a single name has no direction from the mean of the names
            encoded = _encoded(encoder, [names[classes[row]] for row in named])
            prototypes[named] = NAME_WEIGHT * _unit(encoded - encoded.mean(0))
        np.add.at(prototypes, rows, _unit(vectors - centre))

        def predict(queries: Sequence[str]) -> Prediction:
            cosines = _unit(encoder.queries(queries) - centre) @ _unit(prototypes).T
            return Prediction(classes[cosines.argmax(1)].tolist())

        return predict

    return fit


def _encoded(encoder: FrozenEncoder, names: Sequence[str]) -> np.ndarray:
    """Features of class names, (names, hidden), without the cache, so that the time of a fit includes it."""
    return encoded_names(encoder.encoder.encode, names).numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors, (n, hidden), to unit length; zero stays zero."""
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(lengths, 1e-9)
    return unit
