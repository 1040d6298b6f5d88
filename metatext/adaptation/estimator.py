"""A learner as a scikit-learn classifier of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from metatext.adaptation.adapt import Adapted, adapt
from metatext.data.columns import checked_texts, is_missing
from metatext.encoders.transformers_loading import default_device
from metatext.errors import InputError
from metatext.learners.learner import Learner


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Adapts a learner to a few labelled texts.

    Args:
        learner: a `Learner`, or the folder or Hub id of one. It is not changed.
        steps: inner steps of the adaptation. By default none with a prototype head, whose start is chosen from the
            labelled texts, and as many as in meta-training with a learned head.
        class_names: what each label is called in the language of the texts, a word or a short description: it counts
            like a few labelled texts. By default the labels themselves, unless they are numbers or the like.
        blend: share of the meta-trained weights in the encoder, from 0 to 1 in quarters; by default chosen from the
            labelled texts.
        epochs: passes of fine-tuning over the labelled texts. By default 4 from 30 texts on, or from 60 where the
            sources have the classes; none with fewer, with inner steps, or with a learned head.

    Attributes:
        classes_: the labels, sorted, as they were given (strings or numbers).
        model: the adapted transformers classifier (after `fit`).
    """

    def __init__(
        self,
        learner: Learner | str | Path,
        steps: int | None = None,
        class_names: Mapping[Any, str] | None = None,
        blend: float | None = None,
        epochs: int | None = None,
    ) -> None:
        self.learner = learner
        self.steps = steps
        self.class_names = class_names
        self.blend = blend
        self.epochs = epochs

    def __sklearn_clone__(self) -> FewShotClassifier:
        return type(self)(**self.get_params(deep=False))  # shares the learner, which fitting leaves as it was

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, texts: Sequence[str], labels: Sequence[Any], unlabelled: Sequence[str] = ()) -> FewShotClassifier:
        """Adapts to `texts` and their `labels`, any number per class, and to `unlabelled` texts of the same kind.

        Raises:
            InputError: lengths differ, a text is empty or no string, a label is missing, or there is only one class.
        """
        texts = checked_texts(texts)
        targets = np.asarray(labels)
        if len(texts) != len(targets):
            raise InputError(f"{len(texts)} texts but {len(targets)} labels: each text needs one label")
        for row, label in enumerate(labels, 1):
            if is_missing(label):
                raise InputError(f"label {row} of {len(targets)} is missing, got {label!r}")
        if targets.ndim != 1:
            raise InputError(f"labels must be one for each text, got an array of shape {targets.shape}")
        check_classification_targets(targets)
        self.classes_, indices = np.unique(targets, return_inverse=True)
        names = [str(c) for c in self.classes_]
        learner = (
            self.learner
            if isinstance(self.learner, Learner)
            else (Learner.from_pretrained(self.learner).to(default_device()))
        )
        if not isinstance(self.class_names, Mapping | None):
            raise InputError(f"class_names must be a mapping, label to name, got {type(self.class_names).__name__}")
        called = None if self.class_names is None else {str(k): name for k, name in self.class_names.items()}
        named = [names[i] for i in indices]
        self.adapted_: Adapted = adapt(learner, texts, named, self.steps, called, self.blend, self.epochs, unlabelled)
        # Class names are sorted as text in the model, while classes_ keep the order of their own type (2 before 10).
        self._columns = [self.adapted_.classes.index(name) for name in names]
        return self

    @property
    def model(self) -> Any:
        """The adapted transformers classifier."""
        check_is_fitted(self)
        return self.adapted_.model

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities, float32 (n, classes), columns in the order of `classes_`."""
        check_is_fitted(self)
        return self.adapted_.probabilities(checked_texts(texts)).numpy()[:, self._columns]

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """The most probable label of each text, (n,)."""
        best = self.predict_proba(texts).argmax(1)
        return self.classes_[best]

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes the adapted classifier as a plain transformers folder.

        Raises:
            FileExistsError: the folder holds something already and `overwrite` is not set.
        """
        check_is_fitted(self)
        self.adapted_.save_pretrained(folder, overwrite)
