"""From a learner and a few labelled texts to an ordinary transformers classifier."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metatext.adaptation.fine_tuning import EPOCHS, MIN_TEXTS, fine_tuned
from metatext.adaptation.inference import predict
from metatext.adaptation.start import Start
from metatext.adaptation.start_selection import choose_start, unreadable_labels
from metatext.data.class_names import check_class_names, class_names_for, near_duplicates
from metatext.data.columns import checked_texts
from metatext.data.episodes import Examples
from metatext.encoders.sequence_classifier import to_classifier
from metatext.encoders.tokenization import TokenCache
from metatext.errors import InputError, quote_list
from metatext.files import new_folder, write_json
from metatext.hub.model_folder import METADATA
from metatext.learners.heads import LinearHead, LinearLayer
from metatext.learners.learner import Learner
from metatext.learners.meta_gradient import adapted
from metatext.learners.weight_blending import BLENDS, blended

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapted:
    """An adapted classifier: plain transformers `model` and `tokenizer`, and what is known of their origin."""

    model: Any
    tokens: TokenCache
    classes: list[str]
    metadata: dict[str, Any]

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes a plain transformers folder, with `metatext.json` beside the model.

        Raises:
            FileExistsError: the folder holds something already and `overwrite` is not set.
        """
        with new_folder(folder, overwrite) as beside:
            self.model.save_pretrained(beside)
            self.tokens.tokenizer.save_pretrained(beside)
            write_json(beside / METADATA, self.metadata)

    def probabilities(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Class probabilities, float32 (n, classes) on the CPU."""
        return predict(self.model, self.tokens, texts, batch_size)


@torch.inference_mode(False)  # a caller may be in it
def adapt(
    learner: Learner,
    texts: Sequence[str],
    labels: Sequence[str],
    steps: int | None = None,
    class_names: Mapping[str, str] | None = None,
    blend: float | None = None,
    epochs: int | None = None,
    unlabelled: Sequence[str] = (),
) -> Adapted:
    """Chooses a start from the labelled texts and fine-tunes it on them; the learner is left as it was.

    Args:
        learner: a meta-trained learner.
        texts: the support, any number per class.
        labels: the class name of each text; at least two different ones.
        steps: inner steps, with the learned rates; by default none with a prototype head, whose start is chosen from
            the texts, and as many as in meta-training with a learned head.
        class_names: what a label is called, in the language of the texts: a word or a short description. By default
            the label itself, unless it is a number or the like; an empty name says nothing. By it or the label, in any
            case, what was learned of a source's class is found.
        blend: share of the meta-trained weights, one of `metatext.blend.SHARES`; by default chosen from the support;
            with one text a class all where the sources have the classes, half otherwise.
        epochs: passes of fine-tuning over the texts (`metatext.tune`); by default 4 from 30 texts on, or from 60
            where the sources have the classes, and none with fewer, or where inner steps are asked for.
        unlabelled: further texts of the target, some hundreds: they show where its texts lie, and join the prototypes
            of the classes that they are likely to be of.

    Raises:
        InputError: negative steps or epochs; fewer than two classes; a label that the learner's learned head does not
            know; a name for a label that is not there; a blend that cannot be had; one of the last four arguments for
            a learned head.
    """
    classes = sorted(set(labels))
    _check_request(learner, classes, steps, epochs)
    check_class_names(class_names or {}, classes)
    _check_start(learner, blend, class_names, epochs, unlabelled)
    labelled = set(texts)
    unlabelled = [text for text in dict.fromkeys(unlabelled) if text not in labelled]
    _warn_of_texts(learner, texts, labels, classes)
    names = class_names_for(classes, class_names)
    support = Examples(list(texts), [classes.index(label) for label in labels])
    start = choose_start(learner, support, classes, names, blend)
    _warn_of_names(learner, classes, names, class_names or {}, start)
    epochs = fine_tuning_epochs(support, start, steps, epochs)
    with adapted_learner(learner, support, classes, start, steps, epochs, unlabelled) as layer:
        model = to_classifier(learner.encoder, learner.settings.pooling, _tied(layer), classes)
    metadata = learner.metadata("classifier") | {"classes": classes, "support": dict(sorted(Counter(labels).items()))}
    if start:
        metadata["start"] = {"blend": start.share, "names_weight": start.weight, "shared": start.shared}
        metadata |= {"epochs": epochs, "unlabelled": len(unlabelled)}
    if steps is not None or start:
        metadata["inner_steps"] = steps or 0
    return Adapted(model, learner.tokens, classes, metadata)


def fine_tuning_epochs(support: Examples, start: Start | None, steps: int | None, epochs: int | None) -> int:
    """Passes of fine-tuning over the support: those asked for, else `EPOCHS` where no inner steps are.

    With few texts there are none: they would fit these alone. Where the sources have the classes, few are more.
    """
    if epochs is not None:
        return epochs
    return EPOCHS if start and not steps and len(support) >= MIN_TEXTS * (2 if start.shared else 1) else 0


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
    """Within the block the learner is adapted to `support`; yields the task's linear layer.

    From a start that was chosen, the encoder is fine-tuned, and no inner steps are taken unless asked for: they gain
    nothing on average (docs/results.md). Without one, the inner loop of meta-training runs from its own start.
    """
    if start is None:
        with adapted(learner, support, classes, steps) as layer:
            yield layer
        return
    with (
        blended(learner, start.share),
        fine_tuned(learner, support, start, epochs, unlabelled) as first,
        adapted(learner, support, classes, steps or 0, first) as layer,
    ):
        yield layer


def _check_request(learner: Learner, classes: Sequence[str], steps: int | None, epochs: int | None) -> None:
    """Refuses numbers below 0 and fewer than two classes; warns of an encoder that was never meta-trained."""
    for what, number in (("steps", steps), ("epochs", epochs)):
        if number is not None and number < 0:
            raise InputError(f"{what} must be 0 or more, got {number}")
    if not learner.meta_trained:
        logger.warning("%s is a plain encoder: nothing was meta-learned, only adapted", learner.base_model)
    if not classes:
        raise InputError("there are no texts to adapt to: give a few labelled texts of at least two classes")
    if len(classes) < 2:
        raise InputError(f"a classifier needs at least two classes, but every label is {classes[0]!r}")


def _check_start(
    learner: Learner,
    blend: float | None,
    class_names: Mapping[str, str] | None,
    epochs: int | None,
    unlabelled: Sequence[str],
) -> None:
    more = checked_texts(unlabelled, "unlabelled")
    wishes = {"blend": blend, "class_names": class_names, "epochs": epochs, "unlabelled": more or None}
    if blend is not None and blend not in BLENDS:
        raise InputError(f"blend must be one of {', '.join(map(str, BLENDS))}, got {blend}")
    for name, value in wishes.items():
        if value is not None and isinstance(learner.head, LinearHead):
            raise InputError(f"{name} is for learners with a prototype head; this one's head has learned its classes")


def _warn_of_texts(learner: Learner, texts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> None:
    """Says which texts and labels are not what the user may take them for."""
    labels_of = Counter(text for text, _ in dict.fromkeys(zip(texts, labels, strict=True)))
    if several := [text for text, count in labels_of.items() if count > 1]:
        logger.warning("%d texts have more than one label, the first is %r", len(several), several[0][:40])
    if same := near_duplicates(classes):
        logger.warning("labels %s are classes of their own: only case, spaces or underscores differ", quote_list(same))
    most = learner.tokens.max_length
    if cut := sum(len(ids) >= most for ids in learner.tokens.ids(texts)):
        logger.info("%d of the %d texts reach %d tokens, where they are cut (max_length)", cut, len(texts), most)


def _warn_of_names(
    learner: Learner, classes: Sequence[str], names: Sequence[str], given: Mapping[str, str], start: Start | None
) -> None:
    """Says which labels have a name that the encoder cannot read, and which have none beside others that do."""
    if not isinstance(learner.head, LinearHead) and (unread := unreadable_labels(learner, classes, names)):
        logger.warning(
            "the encoder has no words for what these labels are called, so their names are not used: %s; "
            "say it in its language (--class-names label=name, in Python class_names)",
            quote_list(unread),
        )
    nameless = [label for label, name in zip(classes, names, strict=True) if not name and label not in given]
    if nameless and start and start.weight and not start.shared:
        logger.warning("these labels do not say what they are and have no name, as others do: %s", quote_list(nameless))


def _tied(layer: LinearLayer, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Where classes have equal support, lets the first win by a hair: rounding would decide, by batch, otherwise."""
    weight, bias = layer.weight.clone(), layer.bias.clone()
    limit, hair = tolerance * weight.abs().max(), 1e-5 * bias.abs().max().clamp(min=1.0)
    for row in range(1, len(weight)):
        distance = (weight[:row] - weight[row]).abs().amax(1)
        twin = int(distance.argmin())
        if distance[twin] <= limit:
            weight[row], bias[row] = weight[twin], bias[twin] - hair
    return weight, bias
