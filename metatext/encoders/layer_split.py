"""An encoder in two parts that share its parameters: the lower layers, and the upper ones.

Where the inner loop moves the upper layers only, the lower part's output for an episode is computed once.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from metatext.encoders.architectures import ARCHITECTURES


class _PassThrough(nn.Module):
    """In place of the embeddings: the hidden states come from below."""

    def forward(self, input_ids: None = None, inputs_embeds: Tensor | None = None, *_: Any, **__: Any) -> Any:
        return inputs_embeds


def split_at(encoder: Any, upper_layers: int) -> tuple[Any, Any] | None:
    """The encoder below and above the upper layers: `upper(inputs_embeds=lower(...).last_hidden_state)` equals it.

    None where nothing is below, and for architectures that are not separable.
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
    if hasattr(upper, "embeddings_project"):  # ELECTRA's, below the first layer
        upper.embeddings_project = nn.Identity()
    return lower, upper


def _share(encoder: Any, path: str) -> Any:
    """A copy of the encoder and of the module that holds its layers; everything else is the same objects."""
    result = _shallow(encoder)
    parent = path.rpartition(".")[0]
    setattr(result, parent, _shallow(encoder.get_submodule(parent)))
    return result


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
