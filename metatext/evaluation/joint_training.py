"""The joint-training baseline: one ordinary classifier over the classes of all sources."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from metatext.data.domains import Domain
from metatext.data.fingerprints import fingerprint
from metatext.evaluation.baselines import (
    Predict,
    Prediction,
    ZeroShotFit,
    classify,
    train_classifier,
    with_linear_head,
)
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import write_json
from metatext.learners.learner import Learner

logger = logging.getLogger(__name__)


def joint_training(
    encoder: Learner, sources: Sequence[Domain], epochs: float = 1.0, batch_size: int = 32, lr: float = 1e-4
) -> Learner:
    """Trains one ordinary classifier over the classes of all sources; classes of equal names are one class.

    Args:
        encoder: a pretrained encoder. It is not changed.
        sources: labelled source domains.
        epochs: passes over the source texts.
        batch_size: texts per step.
        lr: peak learning rate of the encoder.
    """
    texts = [text for domain in sources for text in domain.texts]
    labels = [label for domain in sources for label in domain.labels]
    model = with_linear_head(encoder, sorted(set(labels)))
    steps = math.ceil(epochs * len(texts) / batch_size)
    train_classifier(model, texts, labels, steps, batch_size, lr, progress="joint training")
    model.sources = sorted(domain.name for domain in sources)
    return model


def source_classifier(joint: Learner) -> ZeroShotFit:
    """Predicts with the jointly trained classifier, restricted to the target's classes, without any target text."""

    predictions: dict[tuple[str, ...], Prediction] = {}

    def fit(classes: Sequence[str]) -> Predict:
        def predict(queries: Sequence[str]) -> Prediction:
            key = (*classes, *queries)
            if key not in predictions:
                predictions[key] = classify(joint.encode(queries), classes, joint.head.start(classes, None))
            return predictions[key]

        return predict

    return fit


def load_or_train_joint(encoder: Learner, sources: Sequence[Domain], settings: EvaluateSettings) -> Learner:
    """Loads the jointly trained classifier from the folder `settings.joint`, or trains it and saves it there.

    Raises:
        FileExistsError: the folder holds something else, or was trained on other texts or with other settings.
    """
    folder = Path(settings.joint) if settings.joint else None
    training_key = {
        "encoder": encoder.base_model,
        "sources": fingerprint([[[domain.texts, domain.labels] for domain in sources]]),
        "epochs": settings.joint_epochs,
        "lr": settings.fine_tune_lr,
        "precision": settings.precision,
        "max_length": encoder.tokens.max_length,
    }
    if folder and folder.exists():
        note = folder / "joint.json"
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != training_key:
            raise FileExistsError(f"{folder} holds another joint training: name another folder, or remove it")
        model = Learner.from_pretrained(folder, max_length=encoder.settings.max_length).to(encoder.device)
    else:
        rows = sum(map(len, sources))
        logger.info("joint training on %d source rows, for the rows joint and source of --methods", rows)
        model = joint_training(encoder, sources, settings.joint_epochs, lr=settings.fine_tune_lr)
        if folder:
            model.save_pretrained(folder)
            write_json(folder / "joint.json", training_key)
    model.autocast_dtype = encoder.autocast_dtype
    return model
