"""One ordinary classifier over the classes of all sources, as a baseline."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from metatext.data.domains import Domain
from metatext.data.fingerprints import fingerprint
from metatext.evaluation.baselines import Fit, Predict, Prediction, classify, train_classifier, with_linear_head
from metatext.evaluation.settings import EvaluateSettings
from metatext.files import write_json
from metatext.learners.learner import Learner

logger = logging.getLogger(__name__)


def joint_training(
    encoder: Learner, sources: Sequence[Domain], epochs: float = 1.0, batch_size: int = 32, lr: float = 1e-4
) -> Learner:
    """One ordinary classifier over the classes of all sources together; equal names are one class."""
    texts = [text for domain in sources for text in domain.texts]
    labels = [label for domain in sources for label in domain.labels]
    model = with_linear_head(encoder, sorted(set(labels)))
    steps = math.ceil(epochs * len(texts) / batch_size)
    train_classifier(model, texts, labels, steps, batch_size, lr, progress="joint training")
    model.sources = sorted(domain.name for domain in sources)
    return model


def source_classifier(joint: Learner) -> Fit:
    """The jointly trained classifier as it is, with no target label; it chooses among the target's classes."""

    known: dict[tuple[str, ...], Prediction] = {}

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        classes = sorted(set(labels))

        def predict(queries: Sequence[str]) -> Prediction:
            key = (*classes, *queries)  # nothing depends on the support: the same test texts have the same answer
            if key not in known:
                known[key] = classify(joint.encode(queries), classes, joint.head.start(classes, None))
            return known[key]

        return predict

    return fit


def load_or_train_joint(encoder: Learner, sources: Sequence[Domain], settings: EvaluateSettings) -> Learner:
    """The jointly trained classifier, from its folder if it is there and was trained on the same, in the same way."""
    folder = Path(settings.joint) if settings.joint else None
    how = {
        "encoder": encoder.base_model,
        "sources": fingerprint([[[domain.texts, domain.labels] for domain in sources]]),
        "epochs": settings.joint_epochs,
        "lr": settings.fine_tune_lr,
        "precision": settings.precision,
    }
    if folder and folder.exists():
        note = folder / "joint.json"
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != how:
            raise FileExistsError(f"{folder} holds another joint training: name another folder, or remove it")
        model = Learner.from_pretrained(folder, max_length=encoder.settings.max_length).to(encoder.device)
    else:
        rows = sum(map(len, sources))
        logger.info("joint training on %d source rows, for the rows joint and source of --methods", rows)
        model = joint_training(encoder, sources, settings.joint_epochs, lr=settings.fine_tune_lr)
        if folder:
            model.save_pretrained(folder)
            write_json(folder / "joint.json", how)
    model.autocast_dtype = encoder.autocast_dtype
    return model
