"""Turns a learner and a few labelled texts into an ordinary transformers classifier."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metatext.adaptation.adapted import Adapted
from metatext.adaptation.fine_tuning import EPOCHS, LARGE, LARGE_EPOCHS, MIN_TEXTS, fine_tuned
from metatext.adaptation.prototypes import PrototypeLayer
from metatext.adaptation.start import Start, encoded_names
from metatext.adaptation.start_selection import choose_start, warn_of_unreadable_names
from metatext.data.class_names import (
    check_class_names,
    class_names_for,
    names_in_another_script,
    near_duplicates,
    without_negations,
)
from metatext.data.columns import checked_pairs, checked_texts
from metatext.data.episodes import Examples
from metatext.encoders.sequence_classifier import to_classifier
from metatext.errors import InputError, quote_list
from metatext.learners.heads import LinearHead, LinearLayer, break_ties
from metatext.learners.learner import Learner
from metatext.learners.meta_gradient import adapted
from metatext.learners.text_length import adaptation_length, reading_at
from metatext.learners.weight_blending import BLENDS, blended

logger = logging.getLogger(__name__)


@torch.inference_mode(False)  # fine-tuning needs gradients, also for a caller in inference mode
def adapt(
    learner: Learner,
    texts: Sequence[str],
    labels: Sequence[str],
    steps: int | None = None,
    class_names: Mapping[str, str] | None = None,
    blend: float | None = None,
    epochs: int | None = None,
    unlabelled: Sequence[str] = (),
    max_length: int | None = None,
    classes: Sequence[str] = (),
) -> Adapted:
    """Returns a classifier adapted to a few labelled texts, or to the names of classes alone.

    With a prototype head, a start is chosen from the texts and, if there are enough of them, fine-tuned. With a learned
    head, the inner loop of meta-training runs from the learned initialisation.

    Args:
        learner: a meta-trained learner. It is not changed.
        texts: the support, any number of texts per class.
        labels: the label of each text. Their order has no effect on the classifier.
        steps: inner steps, with the learned rates. Default: 0 with a prototype head, as many as in meta-training with
            a learned head.
        class_names: names of the labels in the language of the texts, each a word or a short description, or several
            descriptions, one a line, of which the mean counts. Default: the label is its own name, unless it is a
            number or the like. An empty name means no name. A class also starts from the source class of the same name
            or label, ignoring case.
        blend: share of the meta-trained weights in the encoder, one of `metatext.learners.weight_blending.BLENDS`.
            Default: chosen from the support.
        epochs: passes of fine-tuning over the texts. Default: 4 with 30 or more texts (60 if the sources have all
            classes), 3 with more than 150, otherwise 0; also 0 if `steps` is given.
        unlabelled: further texts of the target, best some hundreds. They help to locate the centre of the target's
            texts, and each is added to the prototypes of its likely classes.
        max_length: maximum length of a text in tokens, also when the classifier predicts. Longer texts are cut.
            Default: that of the encoder, up to 256, or that of meta-training if it is longer.
        classes: labels of further classes, which are known by their name only. Default: none, or without texts those of
            `class_names`.

    Raises:
        InputError: negative steps or epochs; fewer than two classes; a class with neither a text nor a name that the
            encoder reads; a label that a learned head does not know; a class name for a label that is no class; a blend
            that is not one of `BLENDS` or needs pretrained weights that the learner was saved without; `class_names`,
            `classes`, `blend`, `epochs` or `unlabelled` for a learned head; a `max_length` above the positions of the
            encoder or below 8.

    Example:
        >>> learner = Learner.from_pretrained("runs/news")  # doctest: +SKIP
        >>> adapt(learner, [], [], class_names={"sports": "体育", "tech": "科技"})  # doctest: +SKIP
    """
    with reading_at(learner, adaptation_length(learner, max_length)):
        return _adapt(learner, texts, labels, steps, class_names, blend, epochs, unlabelled, classes)


def _adapt(
    learner: Learner,
    texts: Sequence[str],
    labels: Sequence[str],
    steps: int | None,
    class_names: Mapping[str, str] | None,
    blend: float | None,
    epochs: int | None,
    unlabelled: Sequence[str],
    further_classes: Sequence[str],
) -> Adapted:
    """Adapts as `adapt` does, at the maximum length that the learner reads at now."""
    texts = checked_pairs(texts, labels)
    if not texts and not further_classes:
        further_classes = list(class_names or {})
    classes = sorted({*labels, *further_classes})
    _check_request(learner, classes, steps, epochs)
    for option, number in (("steps", steps), ("epochs", epochs)):
        if number and not texts:
            raise InputError(f"{option}={number} needs labelled texts: without any, classes are known by names alone")
    check_class_names(class_names or {}, classes)
    _check_start(learner, blend, class_names, epochs, unlabelled, further_classes)
    labelled = set(texts)
    unlabelled = [text for text in dict.fromkeys(unlabelled) if text not in labelled]
    warn_of_texts(texts, labels, classes)
    names = class_names_for(classes, class_names)
    support = support_of(texts, labels, classes)
    start = choose_start(learner, support, classes, names, blend)
    _warn_of_names(learner, [*texts, *unlabelled], classes, names, class_names or {}, start)
    epochs = fine_tuning_epochs(support, start, steps, epochs)
    with adapted_learner(learner, support, classes, start, steps, epochs, unlabelled) as layer:
        model = to_classifier(learner.encoder, learner.settings.pooling, break_ties(layer), classes)
        centres = _centres(learner, layer, names)
    counts = Counter(labels)
    metadata = learner.metadata("classifier")
    metadata |= {"classes": classes, "class_names": names, "support": {label: counts[label] for label in classes}}
    if start:
        metadata["start"] = {"blend": start.blend, "names_weight": start.prior_weight, "shared": start.shared}
        if isinstance(layer, PrototypeLayer):
            metadata["start"]["centre_variance"] = layer.centre_variance
        metadata |= {"epochs": epochs, "unlabelled": len(unlabelled)}
    if steps is not None or start:
        metadata["inner_steps"] = steps or 0
    return Adapted(model, learner.tokens, classes, metadata, centres)


def support_of(texts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Examples:
    """Returns the labelled texts, each once, in an order that depends on nothing but themselves.

    The folds of the start and the batches of fine-tuning follow this order. A text that stands twice would be in two
    folds, and would then be scored by a prototype that contains it.
    """
    pairs = sorted({(classes.index(label), text) for text, label in zip(texts, labels, strict=True)})
    return Examples([text for _, text in pairs], [row for row, _ in pairs])


def fine_tuning_epochs(support: Examples, start: Start | None, steps: int | None, epochs: int | None) -> int:
    """Returns the passes of fine-tuning over the support: `epochs`, or a default if that is None.

    The default is `EPOCHS` for a support of `MIN_TEXTS` or more texts, `LARGE_EPOCHS` above `LARGE` texts, and 0 for a
    smaller one, which the encoder would overfit. It is 0 too with inner steps or with no start. If the sources have all
    classes, the start is better and fine-tuning needs twice as many texts.
    """
    if epochs is not None:
        return epochs
    if not start or steps or len(support) < MIN_TEXTS * (2 if start.shared else 1):
        return 0
    return LARGE_EPOCHS if len(support) > LARGE else EPOCHS


@contextmanager
def adapted_learner(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    start: Start | None,
    steps: int | None = None,
    epochs: int = 0,
    unlabelled: Sequence[str] = (),
) -> Iterator[LinearLayer]:
    """Adapts the learner to `support` within the block and yields the task's linear layer.

    With a chosen start, the encoder is blended and fine-tuned, and then takes `steps` inner steps. The default is 0,
    because inner steps after the start gain nothing on average (docs/ablations.md). Without a start, the inner loop of
    meta-training runs from the learned initialisation. Its default is as many steps as in meta-training.

    Args:
        learner: a learner. Its weights are restored when the block ends.
        support: labelled texts; without a start, at least one of each class.
        classes: the label of each class index of the support.
        start: the start chosen for the support, or None.
        steps: inner steps.
        epochs: passes of fine-tuning over the support, after `start` only.
        unlabelled: further texts for the prototypes, after `start` only.
    """
    if start is None:
        with adapted(learner, support, classes, steps) as layer:
            yield layer
        return
    with (
        blended(learner, start.blend),
        fine_tuned(learner, support, start, epochs, unlabelled) as first_layer,
    ):
        if not steps:
            yield first_layer
            return
        with adapted(learner, support, classes, steps, first_layer) as layer:
            yield layer


def _check_request(learner: Learner, classes: Sequence[str], steps: int | None, epochs: int | None) -> None:
    """Rejects negative numbers and fewer than two classes; warns if the encoder was never meta-trained."""
    for what, number in (("steps", steps), ("epochs", epochs)):
        if number is not None and number < 0:
            raise InputError(f"{what} must be 0 or more, got {number}")
    if not learner.meta_trained:
        logger.warning("%s is a plain encoder: nothing was meta-learned, only adapted", learner.base_model)
    if not classes:
        raise InputError("there are no texts to adapt to: give labelled texts of at least two classes, or class names")
    if len(classes) < 2:
        raise InputError(f"a classifier needs at least two classes, but every label is {classes[0]!r}")


def _check_start(
    learner: Learner,
    blend: float | None,
    class_names: Mapping[str, str] | None,
    epochs: int | None,
    unlabelled: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Rejects a blend that is not one of `BLENDS`, and options of the start with a learned head."""
    further_texts = checked_texts(unlabelled, "unlabelled")
    options: dict[str, Any] = {"blend": blend, "class_names": class_names, "epochs": epochs}
    options |= {"unlabelled": further_texts or None, "classes": list(classes) or None}
    if blend is not None and blend not in BLENDS:
        raise InputError(f"blend must be one of {', '.join(map(str, BLENDS))}, got {blend}")
    for name, value in options.items():
        if value is not None and isinstance(learner.head, LinearHead):
            raise InputError(f"{name} is for learners with a prototype head; this one's head has learned its classes")


def warn_of_texts(texts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> None:
    """Warns of texts with several labels and labels that are nearly equal."""
    label_counts = Counter(text for text, _ in dict.fromkeys(zip(texts, labels, strict=True)))
    if ambiguous := [text for text, count in label_counts.items() if count > 1]:
        logger.warning("%d texts have more than one label, the first is %r", len(ambiguous), ambiguous[0][:40])
    if similar := near_duplicates(classes):
        logger.warning(
            "labels %s are classes of their own: only case, spaces or underscores differ", quote_list(similar)
        )


def _warn_of_names(
    learner: Learner,
    texts: Sequence[str],
    classes: Sequence[str],
    names: Sequence[str],
    given: Mapping[str, str],
    start: Start | None,
) -> None:
    """Warns of labels whose names are of little use, and of labels without a name if others have one."""
    warn_of_unreadable_names(learner, classes, names)
    if not (start and start.shared) and (foreign := names_in_another_script(names, texts)):
        logger.warning(
            "the texts are in another script than the names of these labels: %s; names in the language of the texts "
            "are often worth several labelled texts each (--class-names label=name, in Python class_names)",
            quote_list([label for label, name in zip(classes, names, strict=True) if name in foreign]),
        )
    nameless = [label for label, name in zip(classes, names, strict=True) if not name and label not in given]
    if nameless and start and start.prior_weight and not start.shared:
        logger.warning("these labels do not say what they are and have no name, as others do: %s", quote_list(nameless))


def _centres(learner: Learner, layer: LinearLayer, names: Sequence[str]) -> dict[str, Tensor]:
    """The centre of the texts and, if names are used, that of the names, (hidden,) each."""
    if not isinstance(layer, PrototypeLayer):
        return {}
    usable = [name for name in without_negations(learner.tokens.readable(names)) if name]
    return {"texts": layer.centre} | (
        {"names": encoded_names(learner.encode, usable).mean(0)} if len(usable) > 1 else {}
    )
