"""Parameters of an encoder that the inner loop updates, and the groups of them that share a learning rate."""

from __future__ import annotations

import re
from typing import Any


def names_in_scope(encoder: Any, scope: str) -> list[str]:
    """Returns the names of the encoder parameters that the inner loop updates.

    Args:
        encoder: a transformers base model. With scope `lora` its adapters are its only trainable parameters.
        scope: a `LearnerSettings.scope`.
    """
    names = [name for name, p in encoder.named_parameters() if p.requires_grad]
    if scope == "head":
        return []
    if scope.startswith("top:"):
        numbers = sorted({number for name in names if (number := _layer_number(name)) is not None})
        upper = numbers[-int(scope[4:]) :]
        return [name for name in names if _layer_number(name) in upper]
    return names


def rate_group(name: str) -> str:
    """Returns the group of a parameter; the parameters of a group share an inner learning rate.

    Example:
        >>> rate_group("encoder.layer.3.output.dense.weight"), rate_group("embeddings.LayerNorm.bias")
        ('layer 3', 'embeddings')
    """
    number = _layer_number(name)
    return f"layer {number}" if number is not None else name.split(".")[0]


def _layer_number(name: str) -> int | None:
    """Returns the number of the transformer layer of a parameter, or None for a parameter outside the layers."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match.group(1)) if match else None
