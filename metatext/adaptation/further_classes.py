"""Adds classes to an adapted classifier. Neither the learner nor the texts of its other classes are needed.

A class is a prototype, measured from the centre of the classifier's texts (`metatext.adaptation.prototypes`). The
classifier's folder holds this centre. The centre and the encoder stay as they are, so the logits of the other classes
do not change. This is best for few classes beside many of the same kind: the old texts alone say where the centre is,
and what the encoder was fine-tuned for.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metatext.adaptation.adapt import support_of, warn_of_texts
from metatext.adaptation.adapted import Adapted
from metatext.adaptation.inference import head_features, load_classifier
from metatext.adaptation.start import class_indices, encoded_names
from metatext.data.class_names import check_class_names, class_names_for, without_negations
from metatext.data.columns import checked_pairs, checked_strings
from metatext.data.episodes import Examples
from metatext.encoders.sequence_classifier import head_of, replace_head
from metatext.encoders.tokenization import TokenCache
from metatext.errors import InputError, quote_list
from metatext.hub.model_folder import CENTRES, METADATA, resolve_folder
from metatext.learners.heads import LinearLayer, break_ties

logger = logging.getLogger(__name__)


def add_classes(
    classifier: str | Path,
    texts: Sequence[str],
    labels: Sequence[str],
    class_names: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
) -> Adapted:
    """Returns an adapted classifier with further classes.

    Args:
        classifier: folder or Hub id of a classifier that `metatext adapt` wrote. It is not changed.
        texts: labelled texts of the new classes, any number per class.
        labels: the label of each text.
        class_names: names of the new labels, as in `metatext.adaptation.adapt.adapt`; those of old labels are ignored.
        classes: labels of further new classes, which are known by their name only. Default: none, or without texts
            those of `class_names`.

    Raises:
        InputError: the folder holds no classifier that can be extended; no class is new; a class exists already; or a
            class has neither a text nor a usable name.

    Example:
        >>> add_classes("my-model", ["梅西加盟新球队"], ["football"]).save_pretrained("my-model-2")  # doctest: +SKIP
    """
    model, tokens, metadata = load_classifier(classifier)
    centres = _read_centres(classifier, model.config.hidden_size)
    old = _check_metadata(classifier, metadata, model.config)
    texts = checked_pairs(texts, labels)
    if not texts and not classes:
        classes = [label for label in class_names or {} if label not in old]
    new = sorted(checked_strings({*labels, *classes}, "the new classes", "label"))
    if not new:
        raise InputError("there is no class to add: give labelled texts of new classes, or their names")
    if known := [label for label in new if label in old]:
        raise InputError(
            f"{classifier} has these classes already: {quote_list(known)}; give texts of new classes only, or adapt "
            "the learner to all texts"
        )
    check_class_names(class_names or {}, [*old, *new])
    warn_of_texts(texts, labels, [*old, *new])
    of_old = dict(zip(old, metadata["class_names"], strict=True))
    names = without_negations(tokens.readable(class_names_for([*old, *new], {**(class_names or {}), **of_old})))
    _warn_of_names(dict(zip(new, names[len(old) :], strict=True)), class_names or {}, "names" in centres)
    support = support_of(texts, labels, new)
    prototypes, noise = _prototypes(model, tokens, support, names[len(old) :], centres, metadata["start"])
    if unknown := [label for label, prototype in zip(new, prototypes, strict=True) if not prototype.any()]:
        hint = f", or a name in the language of the texts, {unknown[0]}=name" if "names" in centres else ""
        raise InputError(f"nothing is known of class {unknown[0]!r}: give a labelled text of it{hint}")
    old_weight, old_bias = head_of(model)
    factor = old_weight.norm(dim=1).mean()
    rows = normalize(prototypes, dim=1).to(old_weight) * factor
    biases = -rows @ centres["texts"].to(rows) - noise.to(rows) * factor
    replace_head(
        model, break_ties(LinearLayer(torch.cat([old_weight, rows]), torch.cat([old_bias, biases]))), old + new
    )
    counts = Counter(labels)
    of_classes = metadata["support"] | {label: counts[label] for label in new}
    metadata |= {"classes": old + new, "class_names": names, "support": of_classes}
    return Adapted(model, tokens, old + new, metadata, centres)


def _check_metadata(classifier: str | Path, metadata: Mapping[str, Any], config: Any) -> list[str]:
    """Returns the classes of a classifier.

    Raises:
        InputError: its `metatext.json` does not fit its `config.json`, or lacks what is needed.
    """
    classes, start = [config.id2label[row] for row in range(config.num_labels)], metadata.get("start")
    names, support = metadata.get("class_names"), metadata.get("support")
    numbers = [start.get(name) for name in ("names_weight", "centre_variance")] if isinstance(start, dict) else [None]
    if (
        metadata.get("classes") != classes
        or not (isinstance(names, list) and len(names) == len(classes) and all(isinstance(name, str) for name in names))
        or not isinstance(support, dict)
        or not all(isinstance(number, int | float) and 0 <= number < math.inf for number in numbers)
    ):
        raise InputError(
            f"{METADATA} of {classifier} is damaged or does not belong to its model: adapt the learner to all texts"
        )
    return classes


def _warn_of_names(names: Mapping[str, str], given: Mapping[str, str], used: bool) -> None:
    """Warns of given names of new classes that count for nothing."""
    ignored = [label for label in names if given.get(label) and not (used and names[label])]
    if ignored:
        why = "the encoder cannot read them or they are negations" if used else "the classifier was made without names"
        logger.warning("the names of these labels are not used, because %s: %s", why, quote_list(ignored))


def _prototypes(
    model: Any,
    tokens: TokenCache,
    support: Examples,
    names: Sequence[str],
    centres: Mapping[str, Tensor],
    start: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """Prototypes of the new classes, (classes, hidden), and the noise to subtract from their logits, (classes,).

    As in `choose_start`, the name of a class without a text always counts. Unlike the old texts, the new ones have no
    part in the centre, but its noise is in their directions (see `CentredFeatures`).
    """
    labels = class_indices(support)
    sums, inverse_distances = torch.zeros(len(names), len(centres["texts"])), torch.zeros(len(names))
    if support.texts:
        centred = head_features(model, tokens, support.texts) - centres["texts"]
        sums.index_add_(0, labels, normalize(centred, dim=1))
        inverse_distances.index_add_(0, labels, 1 / centred.norm(dim=1).clamp(min=1e-4))
    named = [row for row, name in enumerate(names) if name and "names" in centres]
    if named:
        features = encoded_names(partial(head_features, model, tokens), [names[row] for row in named])
        directions = normalize(features - centres["names"], dim=1)
        for row, direction in zip(named, directions, strict=True):
            weight = start["names_weight"] if row in support.labels else max(start["names_weight"], 1.0)
            sums[row] += weight * direction
    return sums, inverse_distances / sums.norm(dim=1).clamp(min=1e-4) * start["centre_variance"]


def _read_centres(classifier: str | Path, hidden: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = resolve_folder(str(classifier)) / CENTRES
    if not path.is_file():
        raise InputError(
            f"{classifier} cannot get further classes: it has no {CENTRES}, which classifiers with a learned head or "
            "inner steps, and those of earlier versions, lack; adapt the learner to all texts"
        )
    try:
        centres = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {error}; adapt the learner to all texts") from error
    sound = all(
        centre.shape == (hidden,) and centre.is_floating_point() and bool(centre.isfinite().all())
        for centre in centres.values()
    )
    if "texts" not in centres or not sound:
        raise InputError(f"{path} is damaged: it must hold vectors of {hidden} numbers; adapt the learner to all texts")
    return {name: centre.float() for name, centre in centres.items()}
