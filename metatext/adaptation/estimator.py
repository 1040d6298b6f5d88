"""A scikit-learn classifier of texts that adapts a learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from metatext.adaptation.adapt import adapt
from metatext.adaptation.adapted import Adapted
from metatext.data.columns import checked_pairs, checked_texts, is_missing
from metatext.encoders.transformers_loading import default_device
from metatext.errors import InputError
from metatext.learners.learner import Learner


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """A scikit-learn classifier that adapts a learner to a few labelled texts.

    Args:
        learner: a `Learner`, or the folder or Hub id of one, or the name of one in the package, such as
            "general-english". It is not changed.
        steps: inner steps. Default: 0 with a prototype head, as many as in meta-training with a learned head.
        class_names: the name of each label in the language of the texts, a word or a short description, or several
            descriptions, one a line, of which the mean counts. A name counts like a few labelled texts. Default: the
            label is its own name, unless it is a number or the like.
        blend: share of the meta-trained weights in the encoder: 0, 0.25, 0.5, 0.75 or 1. Default: chosen from the
            labelled texts.
        epochs: passes of fine-tuning over the labelled texts. Default: 4 with 30 or more texts (60 if the sources have
            all classes), 3 with more than 150, otherwise 0; also 0 with inner steps or a learned head.
        max_length: maximum length of a text in tokens, in `fit` and in `predict`. Longer texts are cut. Default: that
            of the encoder, up to 256, or that of meta-training if it is longer.
        classes: further classes, which are known by their names only. Default: none, or without texts those of
            `class_names`.
        encoder: folder with the encoder of a learner that was saved without it. Default: it comes from the Hub.

    Attributes:
        classes_: the labels as they were given (strings or numbers), sorted; set by `fit`.
        model: the adapted transformers classifier; set by `fit`.
    """

    def __init__(
        self,
        learner: Learner | str | Path,
        steps: int | None = None,
        class_names: Mapping[Any, str] | None = None,
        blend: float | None = None,
        epochs: int | None = None,
        max_length: int | None = None,
        classes: Sequence[Any] | None = None,
        encoder: str | Path | None = None,
    ) -> None:
        self.learner = learner
        self.steps = steps
        self.class_names = class_names
        self.blend = blend
        self.epochs = epochs
        self.max_length = max_length
        self.classes = classes
        self.encoder = encoder

    def __sklearn_clone__(self) -> FewShotClassifier:
        return type(self)(**self.get_params(deep=False))  # shares the learner, which `fit` does not change

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, texts: Sequence[str], labels: Sequence[Any], unlabelled: Sequence[str] = ()) -> FewShotClassifier:
        """Adapts the learner.

        Args:
            texts: labelled texts, any number per class, also none: `fit([], [])` reads class names alone.
            labels: the label of each text, strings or numbers.
            unlabelled: further texts of the same kind.

        Returns:
            The classifier itself.

        Raises:
            InputError: texts and labels differ in number; a text is empty or not a string; a label is missing or not a
                scalar; there is only one class; or an argument of the constructor is not allowed (see `adapt`).
        """
        targets = np.asarray(labels)
        texts = checked_pairs(texts, targets)
        for row, label in enumerate(labels, 1):
            if is_missing(label):
                raise InputError(f"label {row} of {len(targets)} is missing, got {label!r}")
        if targets.ndim != 1:
            raise InputError(f"labels must be one for each text, got an array of shape {targets.shape}")
        if len(targets):
            check_classification_targets(targets)
        further = list(() if len(targets) else self.class_names or ()) if self.classes is None else list(self.classes)
        if len({isinstance(label, str) for label in [*targets.tolist(), *further]}) > 1:
            raise InputError(f"classes must be of the type of the labels, got {further[0]!r} and {targets[0]!r}")
        self.classes_ = np.unique([*targets.tolist(), *further])
        names = [str(c) for c in self.classes_]
        learner = self._load()
        if not isinstance(self.class_names, Mapping | None):
            raise InputError(f"class_names must be a mapping, label to name, got {type(self.class_names).__name__}")
        class_names = None if self.class_names is None else {str(k): name for k, name in self.class_names.items()}
        self.adapted_: Adapted = adapt(
            learner,
            texts,
            [str(label) for label in targets.tolist()],
            self.steps,
            class_names,
            self.blend,
            self.epochs,
            unlabelled,
            self.max_length,
            [str(label) for label in further],
        )
        # The model's classes are sorted as strings, `classes_` by their own type (2 comes first, then 10).
        self._columns = [self.adapted_.classes.index(name) for name in names]
        return self

    def _load(self) -> Learner:
        """Returns the learner, loaded if it is a name."""
        if not isinstance(self.learner, Learner):
            return Learner.from_pretrained(self.learner, encoder=self.encoder).to(default_device())
        if self.encoder is not None:
            raise InputError(f"this learner has its encoder: leave out the encoder {str(self.encoder)!r}")
        return self.learner

    @property
    def model(self) -> Any:
        """The adapted transformers classifier."""
        check_is_fitted(self)
        return self.adapted_.model

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Computes class probabilities, float32 (n, classes), with columns in the order of `classes_`."""
        check_is_fitted(self)
        return self.adapted_.probabilities(checked_texts(texts)).numpy()[:, self._columns]

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the most probable label of each text, (n,)."""
        best = self.predict_proba(texts).argmax(1)
        labels: np.ndarray = self.classes_[best]
        return labels

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes the adapted classifier as a plain transformers folder.

        Raises:
            FileExistsError: the folder is not empty and `overwrite` is not set.
        """
        check_is_fitted(self)
        self.adapted_.save_pretrained(folder, overwrite)
