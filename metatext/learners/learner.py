"""The learner: a pretrained encoder, a head, learned inner learning rates, and the settings of the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from metatext.encoders.lora import adapter_state, add_adapters, base_state, before_training
from metatext.encoders.packing import Batch, LabelledBatches
from metatext.encoders.pooling import pool
from metatext.encoders.tokenization import TokenCache
from metatext.errors import InputError
from metatext.files import new_folder, write_json
from metatext.hub.model_folder import BASE_ENCODER, METADATA
from metatext.learners.base_encoder import describe_encoder, load_base_encoder
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


class Learner(nn.Module):
    """The initialisation that meta-training learns and that every adaptation starts from.

    The logits of a text are W norm(pool(encoder(text))) + b. Here norm is a LayerNorm without weights, and (W, b) is
    the linear layer of the task. Use `from_pretrained` to make a learner.

    Attributes:
        encoder: a transformers base model.
        head: makes the initial linear layer of each task.
        log_inner_lr: logarithms of the inner learning rates, (layer groups, inner steps) or (parameters,).
        settings: the settings of the method.
        base_model: Hub id or folder of the pretrained encoder.
        revision: commit of `base_model` on the Hub; None if unknown.
        base_on_hub: whether the frozen weights of scope "lora" are those of `base_model` on the Hub.
        sources: names of the source domains.
        encoder_max_length: longest text in tokens that the pretrained encoder is stated to read.
        meta_trained: whether meta-training has begun.
        pretrained: encoder parameters at blend 0 by name, float16 (see `before_training`); None if unknown.
        source_classes: prototypes and centroids of the source classes; None before meta-training has ended.
        autocast_dtype: torch.bfloat16 or torch.float16 for mixed precision, otherwise None; not saved.
        loss_scale: factor of every loss in its backward pass against underflow in float16; gradients are unscaled.
    """

    encoder: Any  # the models of transformers are not typed well enough for a type checker

    def __init__(self, encoder: Any, tokenizer: Any, settings: LearnerSettings, base_model: str) -> None:
        super().__init__()
        self.encoder = encoder.eval()  # no dropout, see `train`
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # unused, but would take memory and updates
        if settings.scope == "lora":
            add_adapters(self.encoder, settings.lora_rank)
        self.settings, self.base_model, self.sources = settings, base_model, list[str]()
        self.revision: str | None = None
        self.base_on_hub = self.meta_trained = False
        self.pretrained: dict[str, Tensor] | None = None
        self.source_classes: SourceClasses | None = None
        self.autocast_dtype: torch.dtype | None = None
        self.loss_scale = 1.0
        self.encoder_max_length: int = min(tokenizer.model_max_length, positions(encoder.config))
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
        names = [name for name, p in encoder.named_parameters(remove_duplicate=False) if p is embeddings.weight]
        self.table_name, self.padding_row = names[0], embeddings.padding_idx
        self._table_is_tied = len(names) > 1
        self.parts = split_at(encoder, int(settings.scope[4:])) if settings.scope.startswith("top:") else None
        self.cached = self.parts is not None or settings.scope == "head"  # `below` is constant in the inner loop
        shapes = [encoder.get_parameter(name).shape for name in self.inner_names]
        if self.head_moves:
            shapes += [torch.Size()] * 2  # one rate for the weight of the linear layer, and one for its bias
        group_names = [*map(rate_group, self.inner_names), *self._head_group() * 2]
        groups = [self.inner_groups.index(group) for group in group_names]
        table = self.inner_names.index(self.table_name) if self.table_name in self.inner_names else -1
        self.inner_rates = InnerRates(groups, shapes, table)
        log_rates = self.inner_rates.start(settings.inner_lr, settings.inner_steps, settings.inner_rates == "parameter")
        self.log_inner_lr = nn.Parameter(log_rates, requires_grad=settings.rates_learned)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, encoder: str | Path | None = None, **settings: Any
    ) -> Learner:
        """Loads a saved learner, or makes one from a pretrained encoder.

        Args:
            name: Hub id or folder of a learner or an encoder, or the name of a learner in the package.
            revision: branch, tag or commit on the Hub.
            encoder: folder with the encoder of a learner that was saved without it. Default: it comes from the Hub.
            **settings: fields of `LearnerSettings`. They replace the settings of a saved learner, except head, pooling,
                text prefix and classes, which are part of the trained model.

        Raises:
            InputError: unknown or contradictory settings; no model in the folder; an unsupported architecture.
        """
        folder, saved = open_model_folder(name, revision)
        merged = merge_settings(saved.get("settings", {}), settings, name)
        base = load_base_encoder(name, folder, saved, merged.text_prefix, encoder)
        learner = cls(base.encoder, base.tokenizer, merged, base.name)
        learner.revision, learner.base_on_hub = base.revision, base.on_hub
        if saved:
            learner.meta_trained = saved.get("method") != UNTRAINED
            learner.sources = saved.get("sources", [])
            learner.encoder_max_length = saved.get("encoder_max_length", positions(base.encoder.config))
            learner._restore(read_state(folder, saved), saved["settings"])
        if not saved or merged.scope == "lora":
            learner.pretrained = before_training(learner.encoder)
        return learner

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes the learner to a folder. transformers can load its encoder from there.

        A learner with adapters is written without its encoder, in half precision, if `base_on_hub` is set.

        Raises:
            FileExistsError: the folder is not empty and `overwrite` is not set.
        """
        lora = self.settings.scope == "lora"
        separate = lora and self.base_on_hub
        parameters = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        parameters |= {f"encoder.{name}": value for name, value in adapter_state(self.encoder).items()}
        pretrained = None if lora else self.pretrained
        state = LearnerState(parameters, self.log_inner_lr, self.source_classes, pretrained)
        metadata = self.metadata("learner")
        metadata["source_classes"] = self.source_classes.names if self.source_classes else []
        with new_folder(folder, overwrite) as new:
            if separate:
                metadata[BASE_ENCODER] = describe_encoder(self.encoder, self.tokenizer, self.revision)
            else:
                self.encoder.save_pretrained(new, state_dict=base_state(self.encoder))
                self.tokenizer.save_pretrained(new)
            write_state(new, state, half=separate)
            write_json(new / METADATA, metadata)

    def metadata(self, kind: str) -> dict[str, Any]:
        """Returns the `metatext.json` of this learner (kind "learner") or of a classifier adapted from it."""
        settings = self.settings
        return {
            "kind": kind,
            "metatext_version": __version__,
            "base_model": self.base_model,
            "method": self.method,
            "sources": self.sources,
            "inner_steps": settings.inner_steps,
            "text_prefix": settings.text_prefix,
            "max_length": self.tokens.max_length,
            "encoder_max_length": self.encoder_max_length,
            "pooling": settings.pooling,
            "settings": dataclasses.asdict(settings),
        }

    def _restore(self, state: LearnerState, old_settings: dict[str, Any]) -> None:
        self.pretrained, self.source_classes = state.pretrained, state.source_classes
        restore_rates(self.log_inner_lr.data, state.log_inner_lr, old_settings, self.settings)
        for name, value in state.parameters.items():
            self.get_parameter(name).data.copy_(value)

    @property
    def method(self) -> str:
        """Name of the method that meta-trained this learner, for metadata and tables."""
        return self.settings.method if self.meta_trained else UNTRAINED

    def _head_group(self) -> list[str]:
        return [] if self.settings.scope == "body" else ["head"]

    def train(self, mode: bool = True) -> Learner:
        """Sets the mode of the head only. The encoder never uses dropout: the inner loop must be deterministic."""
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def head_moves(self) -> bool:
        """Whether the inner loop updates the linear layer of the task."""
        return self.settings.scope != "body"

    def rates(self, steps: int | None = None, rows: Tensor | None = None) -> list[Rates]:
        """Returns the inner learning rates: for each inner step, one rate per tensor that the inner loop updates.

        Args:
            steps: number of inner steps, by default that of the settings. Further steps use the rates of the last one.
            rows: ids of the word embeddings that the task updates (see `used_rows`); None if it updates all.
        """
        steps = self.settings.inner_steps if steps is None else steps
        if not self.log_inner_lr.numel():  # a prototypical network
            return [[self.settings.inner_lr] * len(self.inner_rates.groups)] * steps
        return self.inner_rates.of_steps(self.log_inner_lr.detach(), steps, rows)

    @property
    def trained_below(self) -> bool:
        """Whether meta-training updates encoder parameters that the inner loop does not."""
        return any(p.requires_grad and name not in self.inner_names for name, p in self.encoder.named_parameters())

    @property
    def table(self) -> Tensor:
        """Word embeddings, (vocabulary, hidden)."""
        table: Tensor = self.encoder.get_parameter(self.table_name)
        return table

    def used_rows(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        """Returns the token ids in `batches`, int64 (rows,), and a copy of their word embeddings, (rows, hidden).

        The padding token keeps its id as its row number, because some encoders derive positions from it. The copy is
        None if the word embeddings are frozen or tied to another parameter, or if the padding id is no row number.
        """
        used = torch.zeros(len(self.table), dtype=torch.bool, device=self.table.device)
        for batch in batches:
            used[batch.input_ids] = True
        ids = used.nonzero().squeeze(1)
        pad = self.padding_row
        if not self.table.requires_grad or self._table_is_tied or (pad is not None and pad >= len(ids)):
            return ids, None
        if pad is not None:
            others = ids[ids != pad]
            ids = torch.cat([others[:pad], ids.new_tensor([pad]), others[pad:]])
        return ids, self.table.detach()[ids].requires_grad_()

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers. It adds the text prefix."""
        return self.tokens.tokenizer

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.log_inner_lr.device

    @property
    def packs(self) -> bool:
        """Whether texts share lines of a batch. Their boolean attention mask requires "sdpa" attention."""
        config = self.encoder.config
        return ARCHITECTURES[config.model_type].absolute and config._attn_implementation == "sdpa"

    def batches(self, examples: Examples) -> LabelledBatches:
        """Tokenises the examples and pads them into batches."""
        labels = torch.tensor(examples.labels, device=self.device)
        batches = self.tokens.batches(examples.texts, self.settings.batch_size, self.device, self.packs)
        return LabelledBatches([(batch, labels[batch.rows]) for batch in batches], len(examples))

    def features(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """Returns the features of the texts, (n, hidden), normalised to norm sqrt(hidden).

        With a `table`, the token ids of the batch refer to its rows and not to the word embeddings of the encoder.
        """
        return self._pool(self._states(self.encoder, batch, {"input_ids": batch.input_ids}, table), batch)

    def below(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """Returns the part of `features` that is constant in the inner loop, if there is one (see `cached`).

        If the encoder is split, it is the input of the upper layers, (lines, length, hidden). Otherwise it is the
        features themselves, (n, hidden).
        """
        if self.parts is None:
            return self.features(batch, table)
        return self._states(self.parts[0], batch, {"input_ids": batch.input_ids}, table)

    def above(self, below: Tensor, batch: Batch) -> Tensor:
        """Computes the features, (n, hidden), from the output of `below`."""
        if self.parts is None:
            return below
        return self._pool(self._states(self.parts[1], batch, {"inputs_embeds": below}), batch)

    def _states(self, module: Any, batch: Batch, inputs: dict[str, Tensor], table: Tensor | None = None) -> Tensor:
        inputs["attention_mask"] = batch.attention_mask
        if batch.shared:  # (lines, 1, length, length): a token attends to its own text only
            owner, positions = batch.shared
            inputs["attention_mask"] = (owner.unsqueeze(2) == owner.unsqueeze(1)).unsqueeze(1)
            inputs["position_ids"] = positions + first_position(self.encoder.config)
        enabled = self.autocast_dtype is not None
        # autocast caches casts of the weights and would miss the in-place updates of the inner loop.
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled, cache_enabled=False):
            if table is None:
                states: Tensor = module(**inputs).last_hidden_state
            else:
                weights = {self.table_name: table}
                states = functional_call(module, weights, kwargs=inputs, tie_weights=False).last_hidden_state
        return states

    def _pool(self, states: Tensor, batch: Batch) -> Tensor:
        return pool(states.to(self.log_inner_lr.dtype), batch, self.settings.pooling == "cls")

    def loss(self, batch: Batch, labels: Tensor, layer: LinearLayer) -> tuple[Tensor, Tensor]:
        """Returns the cross-entropy summed over the batch (0-d, nats), and the logits (n, ways)."""
        logits = layer.logits(self.features(batch))
        return cross_entropy(logits, labels, reduction="sum"), logits

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Returns the features of texts in their order, (n, hidden), on the CPU and without graph."""
        return self.vectors(texts, batch_size)

    def vectors(self, texts: Sequence[str], batch_size: int) -> Tensor:
        """Returns the features of texts in their order, (n, hidden), on the CPU. Gradients flow if they are enabled."""
        batches = self.tokens.batches(texts, batch_size, self.device, self.packs)
        result = torch.empty(len(texts), self.encoder.config.hidden_size, dtype=self.log_inner_lr.dtype)
        for batch in batches:
            result[batch.rows.cpu()] = self.features(batch).cpu()
        return result
