"""Features of a few texts from the top layers of an encoder, with the states below them computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from metatext.encoders.architectures import ARCHITECTURES
from metatext.encoders.layer_split import split_at
from metatext.encoders.lora import adapter_state
from metatext.encoders.packing import Batch
from metatext.learners.learner import Learner

_MAX_CACHED_VALUES = 2**28  # of the states below, 1 GiB in float32; more are computed anew in each pass


class TopLayers:
    """The top layers of an encoder, and the states of some texts below them.

    Args:
        learner: a learner. The states are those of its current weights.
        texts: the texts, n.
        share: share of the layers that count as top layers, 0 to 1.

    Attributes:
        whole: whether all layers are top layers. The embeddings belong to them then.
    """

    def __init__(self, learner: Learner, texts: Sequence[str], share: float) -> None:
        self._learner, self._texts = learner, texts
        layers = learner.encoder.get_submodule(ARCHITECTURES[learner.encoder.config.model_type].layers)
        number = max(1, round(share * len(layers)))
        self.whole = number >= len(layers)
        top = learner.encoder if self.whole else layers[-number:]
        self._parts = split_at(learner.encoder, number)  # None also if the architecture cannot be split
        self._ids = {id(parameter) for parameter in top.parameters()}
        lengths = torch.tensor([len(ids) for ids in learner.tokens.ids(texts)])
        self._first_token = lengths.cumsum(0) - lengths  # (n,)
        self._states: Tensor | None = None  # states of all tokens below the top layers, (tokens, hidden)
        if self._parts and int(lengths.sum()) * learner.encoder.config.hidden_size <= _MAX_CACHED_VALUES:
            self._states = self._below_all(int(lengths.sum()))

    def parameters(self) -> list[Tensor]:
        """The parameters to fine-tune: those of the top layers that are not frozen, but for the word embeddings.

        Adapters are left as they are, and the base weights, which only meta-training freezes, are tuned in their place.
        The classifier merges both anyway, and few steps would hardly move the adapters.
        """
        encoder = self._learner.encoder
        word_embeddings, adapters = encoder.get_input_embeddings().weight, adapter_state(encoder)
        return [
            p
            for name, p in encoder.named_parameters()
            if id(p) in self._ids
            and p is not word_embeddings
            and (name not in adapters if adapters else p.requires_grad)
        ]

    def features(self, rows: Tensor) -> Tensor:
        """Features of texts by their numbers, (m, hidden), on the CPU. Gradients flow if they are enabled."""
        learner = self._learner
        result = torch.empty(len(rows), learner.encoder.config.hidden_size, dtype=learner.log_inner_lr.dtype)
        with self._split():
            for batch in self._batches([self._texts[row] for row in rows]):
                if self._parts is None:
                    features = learner.features(batch)
                else:
                    features = learner.above(self._below(batch, rows), batch)
                result[batch.rows.cpu()] = features.cpu()
        return result

    def _batches(self, texts: Sequence[str]) -> list[Batch]:
        learner = self._learner
        return learner.tokens.batches(texts, learner.settings.batch_size, learner.device, learner.packs)

    @torch.no_grad()
    def _below(self, batch: Batch, rows: Tensor) -> Tensor:
        """States of a batch of the texts `rows` below the top layers, (lines, length, hidden)."""
        if self._states is None:
            return self._learner.below(batch)
        return self._states[_token_numbers(batch, self._first_token[rows], len(self._states))]

    @torch.no_grad()
    def _below_all(self, tokens: int) -> Tensor:
        learner = self._learner
        states = torch.empty(0)
        with self._split():
            for batch in self._batches(self._texts):
                found, real = learner.below(batch), batch.attention_mask.bool()
                if not len(states):
                    states = found.new_empty(tokens, found.shape[-1])
                states[_token_numbers(batch, self._first_token, tokens)[real]] = found[real]
        return states

    @contextmanager
    def _split(self) -> Iterator[None]:
        """Lets `below` and `above` of the learner divide its encoder here."""
        own, self._learner.parts = self._learner.parts, self._parts
        try:
            yield
        finally:
            self._learner.parts = own


def _token_numbers(batch: Batch, first_token: Tensor, tokens: int) -> Tensor:
    """Numbers of the tokens of a batch among all tokens, int64 (lines, length). Padding has any number.

    Args:
        batch: a batch of some of m texts.
        first_token: number of the first token of each of the m texts, int64 (m,).
        tokens: number of all tokens.
    """
    first = first_token.to(batch.rows.device)[batch.rows]
    if batch.shared is None:
        return (first.unsqueeze(1) + torch.arange(batch.input_ids.shape[1], device=first.device)).clamp(max=tokens - 1)
    owner, positions = batch.shared
    return (torch.cat([first, first.new_zeros(1)])[owner] + positions).clamp(max=tokens - 1)
