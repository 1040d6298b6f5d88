"""From the states of tokens to one vector a text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from metatext.encoders.packing import Batch


def pool(states: Tensor, batch: Batch, first_token: bool) -> Tensor:
    """Normalised text vectors (n, hidden), of norm sqrt(hidden).

    Args:
        states: the encoder's last hidden states, (lines, length, hidden).
        batch: the n texts whose states they are.
        first_token: take the state of a text's first token; otherwise the mean over its tokens.
    """
    if batch.shared:
        owner, positions = batch.shared
        texts = torch.arange(len(batch.rows), device=states.device).unsqueeze(1)
        tokens = owner.flatten() == texts  # (n, tokens): those that count for a text
        if first_token:
            tokens &= positions.flatten() == 0
        pooled = (tokens.to(states.dtype) / tokens.sum(1, keepdim=True)) @ states.flatten(0, 1)
    elif first_token:
        pooled = states[:, 0]
    else:
        mask = batch.attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1)
    return layer_norm(pooled, pooled.shape[-1:], eps=1e-12)
