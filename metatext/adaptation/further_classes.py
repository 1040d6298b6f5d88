"""Adds classes to an adapted classifier. Neither the learner nor the texts of its other classes are needed.

A class is a prototype, measured from the centre of the classifier's texts (`metatext.adaptation.prototypes`). The
classifier's folder holds this centre. The centre and the encoder stay as they are, so the logits of the other classes
do not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metatext.adaptation.adapted import CENTRES, Adapted, break_ties
from metatext.adaptation.inference import head_features, load_classifier
from metatext.data.class_names import check_class_names, class_names_for, descriptions
from metatext.data.columns import checked_pairs
from metatext.encoders.sequence_classifier import head_of, replace_head
from metatext.encoders.tokenization import TokenCache
from metatext.errors import InputError, quote_list
from metatext.hub.model_folder import resolve_folder
from metatext.learners.heads import LinearLayer


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
        class_names: names of the new labels, as in `metatext.adaptation.adapt.adapt`.
        classes: labels of further new classes, which are known by their name only.

    Raises:
        InputError: the folder holds no classifier that can be extended; no class is new; a class exists already; or a
            class has neither a text nor a usable name.

    Example:
        >>> add_classes("my-model", ["梅西加盟新球队"], ["football"]).save_pretrained("my-model-2")  # doctest: +SKIP
    """
    model, tokens, metadata = load_classifier(classifier)
    centres = _read_centres(classifier)
    old = list(metadata["classes"])
    texts = checked_pairs(texts, labels)
    new = sorted({*labels, *classes})
    if not new:
        raise InputError("there is no class to add: give labelled texts of new classes, or their names")
    if known := [label for label in new if label in old]:
        raise InputError(
            f"{classifier} has these classes already: {quote_list(known)}; give texts of new classes only, or adapt "
            "the learner to all texts"
        )
    check_class_names(class_names or {}, new)
    names = tokens.readable(class_names_for(new, class_names))
    weight = max(1.0, metadata["start"]["names_weight"]) if "names" in centres else 0.0
    directions = _prototypes(model, tokens, texts, [new.index(label) for label in labels], names, centres, weight)
    if unknown := [label for label, direction in zip(new, directions, strict=True) if not direction.any()]:
        raise InputError(
            f"nothing is known of class {unknown[0]!r}: give a labelled text of it"
            + (f", or a name in the language of the texts, {unknown[0]}=name" if weight else "")
        )
    old_weight, old_bias = head_of(model)
    rows = normalize(directions, dim=1).to(old_weight) * old_weight.norm(dim=1).mean()
    centre = centres["texts"].to(old_weight)
    layer = LinearLayer(torch.cat([old_weight, rows]), torch.cat([old_bias, -rows @ centre]))
    replace_head(model, break_ties(layer), old + new)
    support = {label: list(labels).count(label) for label in new}
    metadata |= {"classes": old + new, "support": metadata["support"] | support}
    return Adapted(model, tokens, old + new, metadata, centres)


def _prototypes(
    model: Any,
    tokens: TokenCache,
    texts: Sequence[str],
    rows: Sequence[int],
    names: Sequence[str],
    centres: Mapping[str, Tensor],
    weight: float,
) -> Tensor:
    """Sums of the directions of each class's texts and, `weight` times, of its name, (classes, hidden)."""
    sums = torch.zeros(len(names), len(centres["texts"]))
    if texts:
        directions = normalize(head_features(model, tokens, texts) - centres["texts"], dim=1)
        sums.index_add_(0, torch.tensor(rows), directions)
    for row, name in enumerate(names):
        if weight and name:
            feature = head_features(model, tokens, descriptions(name)).mean(0)
            sums[row] += weight * normalize(feature - centres["names"], dim=0)
    return sums


def _read_centres(classifier: str | Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = resolve_folder(str(classifier)) / CENTRES
    if not path.exists():
        raise InputError(
            f"{classifier} cannot get further classes: it has no {CENTRES}, which classifiers with a learned head or "
            "inner steps, and those of earlier versions, lack; adapt the learner to all texts"
        )
    return load_file(path)
