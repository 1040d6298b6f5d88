"""Pools the states of tokens into one vector per text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from metatext.encoders.packing import Batch


def pool(states: Tensor, batch: Batch, first_token: bool) -> Tensor:
    """Pools token states, and normalises the vectors with a LayerNorm without weights.

    Args:
        states: last hidden states of the encoder, float (lines, length, hidden).
        batch: the batch of n texts that the encoder read.
        first_token: take the state of the first token of a text. Otherwise take the mean over its tokens.

    Returns:
        Text vectors (n, hidden), each with mean 0 and Euclidean norm sqrt(hidden).
    """
    if batch.shared:
        owner, positions = batch.shared
        texts = torch.arange(len(batch.rows), device=states.device).unsqueeze(1)
        tokens = owner.flatten() == texts  # (n, lines * length): the tokens of each text
        if first_token:
            tokens &= positions.flatten() == 0
        pooled = (tokens.to(states.dtype) / tokens.sum(1, keepdim=True)) @ states.flatten(0, 1)
    elif first_token:
        pooled = states[:, 0]
    else:
        mask = batch.attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1)
    return layer_norm(pooled, pooled.shape[-1:], eps=1e-12)
