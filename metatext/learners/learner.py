"""The learner: a pretrained encoder, a head, learned inner learning rates, and the settings of the method."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metatext._version import __version__
from metatext.core.gradients import Rates
from metatext.core.inner_rates import InnerRates
from metatext.data.episodes import Examples
from metatext.encoders.architectures import ARCHITECTURES, first_position, positions
from metatext.encoders.layer_split import split_at
from metatext.encoders.lora import adapter_state, add_adapters, base_state
from metatext.encoders.packing import Batch
from metatext.encoders.pooling import pool
from metatext.encoders.tokenization import TokenCache, load_tokenizer
from metatext.encoders.transformers_loading import load_encoder
from metatext.errors import InputError
from metatext.files import new_folder, write_json
from metatext.hub.model_folder import METADATA
from metatext.learners.heads import LinearHead, LinearLayer, PrototypeHead
from metatext.learners.scope import names_in_scope, rate_group
from metatext.learners.settings import LearnerSettings
from metatext.learners.state import (
    UNTRAINED,
    LearnerState,
    SourceClasses,
    merge_settings,
    open_model_folder,
    read_state,
    restore_rates,
    write_state,
)

logger = logging.getLogger(__name__)


class LabelledBatches(NamedTuple):
    """Examples as padded batches with their labels, int64 (n,) each; `size` texts in all."""

    batches: list[tuple[Batch, Tensor]]
    size: int


class Learner(nn.Module):
    """What meta-training learns and adaptation starts from.

    logits = W norm(pool(encoder(text))) + b, where norm is a LayerNorm without weights and (W, b) the task's head.
    Make one with `from_pretrained`.

    Attributes:
        encoder: a transformers base model.
        head: the module that gives each task its linear layer at the start.
        log_inner_lr: logarithms of the inner learning rates, (layer groups, inner steps), or a vector.
        settings: the method's settings.
        base_model: id or folder name of the pretrained encoder.
        sources: names of the domains that it was meta-trained on.
        meta_trained: whether meta-training has begun.
        pretrained: the encoder's trainable parameters before meta-training by name, float16; None where not known.
        source_classes: what is remembered of the sources' classes; None before meta-training has ended.
        autocast_dtype: torch.bfloat16 or torch.float16 for mixed precision, else None; not saved.
        loss_scale: factor on every loss before its backward pass, taken out of the gradients again; for float16.
    """

    encoder: Any  # transformers' models say too little of themselves to a type checker

    def __init__(self, encoder: Any, tokenizer: Any, settings: LearnerSettings, base_model: str) -> None:
        super().__init__()
        self.encoder = encoder.eval()  # dropout stays off: the inner loop is a deterministic function
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # never used: it would only cost memory and updates
        if settings.scope == "lora":
            add_adapters(self.encoder, settings.lora_rank)
        self.settings, self.base_model, self.sources = settings, base_model, list[str]()
        self.meta_trained = False
        self.pretrained: dict[str, Tensor] | None = None
        self.source_classes: SourceClasses | None = None
        self.autocast_dtype: torch.dtype | None = None
        self.loss_scale = 1.0
        tokenizer.model_max_length = min(settings.max_length, positions(encoder.config))
        self.tokens = TokenCache(tokenizer, tokenizer.model_max_length)
        hidden = encoder.config.hidden_size
        self.head: PrototypeHead | LinearHead = (
            PrototypeHead() if settings.head == "prototype" else LinearHead(settings.classes, hidden)
        )
        self.inner_names = names_in_scope(encoder, settings.scope)
        if not self.inner_names and not self.head_moves:
            raise InputError("scope='body' moves nothing here: every parameter of the encoder is frozen")
        self.inner_groups = list(dict.fromkeys([*map(rate_group, self.inner_names), *self._head_group()]))
        embeddings = self.encoder.get_input_embeddings()
        uses = [name for name, p in encoder.named_parameters(remove_duplicate=False) if p is embeddings.weight]
        self.table_name, self.padding_row = uses[0], embeddings.padding_idx
        self._table_is_tied = len(uses) > 1
        self.parts = split_at(encoder, int(settings.scope[4:])) if settings.scope.startswith("top:") else None
        self.cached = self.parts is not None or settings.scope == "head"
        shapes = [encoder.get_parameter(name).shape for name in self.inner_names]
        if self.head_moves:
            shapes += [torch.Size()] * 2  # a task's layer has a rate for its weight and one for its bias
        groups = [
            self.inner_groups.index(group) for group in [*map(rate_group, self.inner_names), *self._head_group() * 2]
        ]
        table = self.inner_names.index(self.table_name) if self.table_name in self.inner_names else -1
        self.inner_rates = InnerRates(groups, shapes, table)
        logs = self.inner_rates.start(settings.inner_lr, settings.inner_steps, settings.inner_rates == "parameter")
        self.log_inner_lr = nn.Parameter(logs, requires_grad=settings.rates_learned)

    # ------------------------------------------------------------------ loading and saving
    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **settings: Any) -> Learner:
        """Loads a saved learner, or starts one from a pretrained encoder.

        Args:
            name: Hub id or folder of either.
            revision: branch, tag or commit on the Hub.
            **settings: fields of `LearnerSettings`. For a saved learner they replace its own; the pooling, the text
                prefix and the head stay as it was trained.

        Raises:
            InputError: an unknown setting; a folder that holds no model; an architecture that is not supported.
        """
        folder, saved = open_model_folder(name, revision)
        values = merge_settings(saved.get("settings", {}), settings, name)
        encoder = load_encoder(folder, name)
        prefix = "" if saved else values.text_prefix  # a saved tokenizer puts the prefix already
        tokenizer = load_tokenizer(folder, prefix)
        base_model = str(folder.resolve()) if Path(name).exists() else str(name)  # found from any working directory
        learner = cls(encoder, tokenizer, values, saved.get("base_model", base_model))
        if saved:
            learner.meta_trained = saved.get("method") != UNTRAINED
            learner.sources = saved.get("sources", [])
            learner._restore(read_state(folder, saved), saved["settings"])
        else:
            parameters = learner.encoder.named_parameters()
            learner.pretrained = {name: p.detach().to(torch.float16) for name, p in parameters if p.requires_grad}
        return learner

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes the learner: an encoder folder that transformers can load too, head and rates, `metatext.json`.

        Raises:
            FileExistsError: the folder holds something already and `overwrite` is not set.
        """
        parameters = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        parameters |= {f"encoder.{name}": value for name, value in adapter_state(self.encoder).items()}
        names = self.source_classes.names if self.source_classes else []
        with new_folder(folder, overwrite) as beside:
            self.encoder.save_pretrained(beside, state_dict=base_state(self.encoder))
            self.tokenizer.save_pretrained(beside)
            write_state(beside, LearnerState(parameters, self.log_inner_lr, self.source_classes, self.pretrained))
            write_json(beside / METADATA, self.metadata("learner") | {"source_classes": names})

    def metadata(self, kind: str) -> dict[str, Any]:
        """What `metatext.json` says of this learner, or of a classifier adapted from it."""
        shown = self.settings
        return {
            "kind": kind,
            "metatext_version": __version__,
            "base_model": self.base_model,
            "method": self.method,
            "sources": self.sources,
            "inner_steps": shown.inner_steps,
            "text_prefix": shown.text_prefix,
            "max_length": shown.max_length,
            "pooling": shown.pooling,
            "settings": dataclasses.asdict(shown),
        }

    def _restore(self, state: LearnerState, settings: dict[str, Any]) -> None:
        self.pretrained, self.source_classes = state.pretrained, state.source_classes
        restore_rates(self.log_inner_lr.data, state.log_inner_lr, settings, self.settings)
        for name, value in state.parameters.items():
            self.get_parameter(name).data.copy_(value)

    @property
    def method(self) -> str:
        """The name of the method that it was meta-trained by."""
        return self.settings.method if self.meta_trained else UNTRAINED

    # ------------------------------------------------------------------ what the inner loop moves
    def _head_group(self) -> list[str]:
        return [] if self.settings.scope == "body" else ["head"]

    def train(self, mode: bool = True) -> Learner:
        """Dropout stays off in the encoder, whatever `mode`: the inner loop must be a deterministic function."""
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def head_moves(self) -> bool:
        """Whether the inner loop moves the task's linear layer."""
        return self.settings.scope != "body"

    def rates(self, steps: int | None = None, rows: Tensor | None = None) -> list[Rates]:
        """a_k for each moving tensor, for each inner step; further steps use the last step's.

        Args:
            steps: by default the learner's own.
            rows: of the word embeddings, where a task moves these only (see `used_rows`).
        """
        steps = self.settings.inner_steps if steps is None else steps
        if not self.log_inner_lr.numel():  # a prototypical network
            return [[self.settings.inner_lr] * len(self.inner_rates.groups)] * steps
        return self.inner_rates.of_steps(self.log_inner_lr.detach(), steps, rows)

    @property
    def trained_below(self) -> bool:
        """Whether parameters that the inner loop leaves alone are meta-learned."""
        return any(p.requires_grad and name not in self.inner_names for name, p in self.encoder.named_parameters())

    # ------------------------------------------------------------------ word embeddings
    @property
    def table(self) -> Tensor:
        """The word embeddings, (vocabulary, hidden)."""
        return self.encoder.get_parameter(self.table_name)

    def used_rows(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        """The token ids in `batches`, int64 (rows,), and their embeddings as a tensor of its own, (rows, hidden).

        The padding token stays where it was, as encoders count positions by it. None for a table that is frozen, tied
        to another parameter, or too small for that.
        """
        used = torch.zeros(len(self.table), dtype=torch.bool, device=self.table.device)
        for batch in batches:
            used[batch.input_ids] = True
        ids = used.nonzero().squeeze(1)
        pad = self.padding_row
        if not self.table.requires_grad or self._table_is_tied or (pad is not None and pad >= len(ids)):
            return ids, None
        if pad is not None:
            rest = ids[ids != pad]
            ids = torch.cat([rest[:pad], ids.new_tensor([pad]), rest[pad:]])
        return ids, self.table.detach()[ids].requires_grad_()

    # ------------------------------------------------------------------ the function that is learned
    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, which puts the text prefix by itself."""
        return self.tokens.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_inner_lr.device

    @property
    def packs(self) -> bool:
        """Whether texts share lines of a batch: of the attentions only "sdpa" takes a mask of truth values."""
        config = self.encoder.config
        return ARCHITECTURES[config.model_type].absolute and config._attn_implementation == "sdpa"

    def batches(self, examples: Examples) -> LabelledBatches:
        """Tokenised and padded."""
        labels = torch.tensor(examples.labels, device=self.device)
        batches = self.tokens.batches(examples.texts, self.settings.batch_size, self.device, self.packs)
        return LabelledBatches([(batch, labels[batch.rows]) for batch in batches], len(examples))

    def features(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """Normalised text vectors (n, hidden), of norm sqrt(hidden); `table` takes the place of the word embeddings."""
        return self._pool(self._states(self.encoder, batch, {"input_ids": batch.input_ids}, table), batch)

    def below(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """What the inner loop does not change: the states (lines, length, hidden) below `above`, or vectors."""
        if self.parts is None:
            return self.features(batch, table)
        return self._states(self.parts[0], batch, {"input_ids": batch.input_ids}, table)

    def above(self, below: Tensor, batch: Batch) -> Tensor:
        """From the output of `below` to `features`."""
        if self.parts is None:
            return below
        return self._pool(self._states(self.parts[1], batch, {"inputs_embeds": below}), batch)

    def _states(self, module: Any, batch: Batch, inputs: dict[str, Tensor], table: Tensor | None = None) -> Tensor:
        inputs["attention_mask"] = batch.attention_mask
        if batch.shared:  # (lines, 1, length, length): of the same text
            owner, positions = batch.shared
            inputs["attention_mask"] = (owner.unsqueeze(2) == owner.unsqueeze(1)).unsqueeze(1)
            inputs["position_ids"] = positions + first_position(self.encoder.config)
        enabled = self.autocast_dtype is not None
        # No cache: it would not see that the inner loop has moved the weights.
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled, cache_enabled=False):
            if table is None:
                return module(**inputs).last_hidden_state
            weights = {self.table_name: table}
            return functional_call(module, weights, kwargs=inputs, tie_weights=False).last_hidden_state

    def _pool(self, states: Tensor, batch: Batch) -> Tensor:
        return pool(states.to(self.log_inner_lr.dtype), batch, self.settings.pooling == "cls")

    def loss(self, batch: Batch, labels: Tensor, layer: LinearLayer) -> tuple[Tensor, Tensor]:
        """Summed cross entropy of the batch, and its logits (n, ways)."""
        logits = layer.logits(self.features(batch))
        return cross_entropy(logits, labels, reduction="sum"), logits

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Normalised vectors of texts, (n, hidden) on the CPU, in their order."""
        return self.vectors(texts, batch_size)

    def vectors(self, texts: Sequence[str], batch_size: int) -> Tensor:
        """What `encode` gives, with its graph."""
        batches = self.tokens.batches(texts, batch_size, self.device, self.packs)
        result = torch.empty(len(texts), self.encoder.config.hidden_size, dtype=self.log_inner_lr.dtype)
        for batch in batches:
            result[batch.rows.cpu()] = self.features(batch).cpu()
        return result

    def class_counts(self, support: LabelledBatches, ways: int) -> Tensor:
        """Support texts of each class, (ways,), in the parameters' dtype."""
        labels = torch.cat([labels for _, labels in support.batches])
        return torch.bincount(labels, minlength=ways).to(self.log_inner_lr.dtype)
