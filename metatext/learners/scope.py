"""Which of an encoder's parameters the inner loop moves, and which of them share an inner learning rate."""

from __future__ import annotations

import re
from typing import Any


def names_in_scope(encoder: Any, scope: str) -> list[str]:
    """The names of the encoder's parameters that the inner loop moves, for a `LearnerSettings.scope`."""
    names = [name for name, p in encoder.named_parameters() if p.requires_grad]
    if scope == "head":
        return []
    if scope.startswith("top:"):
        layers = sorted({number for name in names if (number := _layer(name)) is not None})
        upper = layers[-int(scope[4:]) :]
        return [name for name in names if _layer(name) in upper]
    return names


def rate_group(name: str) -> str:
    """The group of parameters that share an inner learning rate: a layer, the embeddings, or the rest."""
    layer = _layer(name)
    return f"layer {layer}" if layer is not None else name.split(".")[0]


def _layer(name: str) -> int | None:
    """The number of the transformer layer that a parameter belongs to."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match.group(1)) if match else None
