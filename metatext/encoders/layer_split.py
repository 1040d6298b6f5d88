"""Splits an encoder into lower and upper layers, which share its parameters.

If the inner loop updates the upper layers only, the output of the lower layers is computed once per episode.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from metatext.encoders.architectures import ARCHITECTURES


class _PassThrough(nn.Module):
    """Replaces the embeddings of the upper part: returns the hidden states that it is given."""

    def forward(self, input_ids: None = None, inputs_embeds: Tensor | None = None, *_: Any, **__: Any) -> Any:
        return inputs_embeds


def split_at(encoder: Any, upper_layers: int) -> tuple[Any, Any] | None:
    """Splits `encoder` below its `upper_layers` last layers.

    `upper(inputs_embeds=lower(...).last_hidden_state)` equals `encoder(...)`. Both parts share its parameters.

    Returns:
        The lower and the upper part. None if no layer would be below, or if the architecture is not separable.
    """
    if not ARCHITECTURES[encoder.config.model_type].separable:
        return None
    path = ARCHITECTURES[encoder.config.model_type].layers
    layers = encoder.get_submodule(path)
    if len(layers) <= upper_layers:
        return None
    lower, upper = _share(encoder, path), _share(encoder, path)
    lower.get_submodule(path.rpartition(".")[0]).layer = nn.ModuleList(layers[:-upper_layers])
    upper.get_submodule(path.rpartition(".")[0]).layer = nn.ModuleList(layers[-upper_layers:])
    upper.embeddings = _PassThrough()
    if hasattr(upper, "embeddings_project"):  # ELECTRA has a projection below its first layer
        upper.embeddings_project = nn.Identity()
    return lower, upper


def _share(encoder: Any, path: str) -> Any:
    """Copies the encoder and the module that holds its layers. All other modules are shared."""
    result = _shallow(encoder)
    parent = path.rpartition(".")[0]
    setattr(result, parent, _shallow(encoder.get_submodule(parent)))
    return result


def _shallow(module: Any) -> Any:
    """Copies a module but not its submodules."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
