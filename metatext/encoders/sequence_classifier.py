"""Builds an ordinary transformers sequence classifier from an encoder, a pooling and a linear layer.

A learner computes logits = W norm(pool(encoder(x))) + b. pool is the mean over the tokens or the first token. norm is a
LayerNorm without weights. Most classifiers of transformers read the first token only, through a dense layer and an
activation. Two constructions make them compute the learner's function, so that the saved folder needs no metatext:

- One more encoder layer. Its queries and keys are zero, so attention is uniform, and its output is the mean over the
  tokens. Values and output are multiples of the identity, and the feed-forward part is zero. The layer's LayerNorm is
  norm. The residual connection must have no effect, so it is made 2^20 times smaller than the mean: the encoder's
  last LayerNorm is scaled by 2^-10, and values and output by 2^10 each. For first-token pooling, the attention output
  is zero, and norm reads the residual.
- The dense layer and its activation become the identity. tanh stays in its linear range near zero. ReLU and GELU get a
  bias that keeps their input positive.

ModernBERT has mean pooling and a final LayerNorm already, so only its dense layer is set.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from metatext.encoders.architectures import ARCHITECTURES, Architecture
from metatext.encoders.lora import merged_state

_SHRINK = 2.0**10  # its square is the ratio of mean to residual; it fits float16
_TANH_RANGE = 2.0**12  # divisor before tanh; the error is below 1e-5 at 20 standard deviations of a feature
_SHIFT = 32.0  # exceeds every normalised feature of up to 1,024 dimensions, which is at most sqrt(1024)


def to_classifier(encoder: Any, pooling: str, layer: tuple[Tensor, Tensor], classes: Sequence[str]) -> Any:
    """Builds a `...ForSequenceClassification` that computes `layer` on the normalised, pooled output of `encoder`.

    Args:
        encoder: a supported base model (`AutoModel`) in float32. It stays as it is, and shares no memory.
        pooling: "mean" or "cls".
        layer: weight (ways, hidden) and bias (ways,) of the linear layer.
        classes: the class name of each row of `layer`, for `id2label`.

    Returns:
        The model in evaluation mode, on the device of `encoder`.
    """
    from transformers import AutoModelForSequenceClassification

    architecture = ARCHITECTURES[encoder.config.model_type]
    config = copy.deepcopy(encoder.config)
    _set_classes(config, classes)
    config.dtype = torch.float32
    native = config.model_type == "modernbert"
    if native:
        config.classifier_pooling, config.classifier_activation = pooling, "linear"
    else:
        setattr(config, architecture.depth, getattr(config, architecture.depth) + 1)
    if config.model_type == "deberta-v2":
        config.pooler_hidden_act = "linear"
    if config.model_type == "albert":  # a group per layer lets the last layer differ
        config.num_hidden_groups = config.num_hidden_layers
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        _copy_encoder(encoder, model.base_model)
        if not native:
            layers = model.base_model.get_submodule(architecture.layers)
            _make_pooling_layer(layers[-2], layers[-1], architecture, pooling)
        _make_head(model, architecture, *(tensor.cpu() for tensor in layer))
    return model.to(encoder.device)


def head_of(model: Any) -> tuple[Tensor, Tensor]:
    """Returns the linear layer of a classifier that `to_classifier` built: weight (ways, hidden) and bias (ways,)."""
    architecture = ARCHITECTURES[model.config.model_type]
    output = model.get_submodule(architecture.output)
    weight, bias = output.weight.detach(), output.bias.detach()
    factor, shift = _factor_and_shift(architecture)
    return weight * factor, bias + shift * weight.sum(1)


def replace_head(model: Any, layer: tuple[Tensor, Tensor], classes: Sequence[str]) -> None:
    """Gives a classifier that `to_classifier` built another linear layer, and the classes of its rows."""
    architecture = ARCHITECTURES[model.config.model_type]
    weight, bias = layer
    old = model.get_submodule(architecture.output)
    model.set_submodule(architecture.output, nn.Linear(weight.shape[1], len(weight)).to(old.weight))
    _set_classes(model.config, classes)
    model.num_labels = len(classes)
    with torch.no_grad():
        _make_head(model, architecture, weight, bias)


@contextmanager
def head_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Collects the features of the texts that a classifier of `to_classifier` reads in the block, (n, hidden) a call.

    They are the learner's, recovered from the input of the classifier's linear layer.
    """
    architecture, found = ARCHITECTURES[model.config.model_type], list[Tensor]()
    factor, shift = _factor_and_shift(architecture)

    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append((inputs[0] - shift) / factor)

    handle = model.get_submodule(architecture.output).register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def _set_classes(config: Any, classes: Sequence[str]) -> None:
    config.num_labels = len(classes)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}


def _copy_encoder(encoder: Any, base: Any) -> None:
    """Copies the weights of `encoder` into the base model of a classifier."""
    state = merged_state(encoder)
    if encoder.config.model_type == "albert":
        state = _unshared(state, encoder.config)
    _, unexpected = base.load_state_dict(state, strict=False)
    assert not unexpected, unexpected


def _unshared(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Copies the shared groups of ALBERT, once for each layer that uses them."""
    head = "encoder.albert_layer_groups."
    result = {name: value for name, value in state.items() if not name.startswith(head)}
    for layer in range(config.num_hidden_layers):
        group = int(layer / (config.num_hidden_layers / config.num_hidden_groups))
        start = f"{head}{group}."
        result |= {f"{head}{layer}.{n[len(start) :]}": v for n, v in state.items() if n.startswith(start)}
    return result


def _make_pooling_layer(last: Any, extra: Any, architecture: Architecture, pooling: str) -> None:
    """Turns the layer `extra`, above the encoder's `last`, into pooling and normalisation."""
    for name in ("query", "key", "value", "attention_output", "feed_in", "feed_out"):
        _set_multiple(extra.get_submodule(getattr(architecture, name)), 0.0)
    for name in ("attention_norm", "norm"):
        norm = extra.get_submodule(getattr(architecture, name))
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    if pooling == "mean":
        residual = last.get_submodule(architecture.norm)
        residual.weight.div_(_SHRINK)
        residual.bias.div_(_SHRINK)
        _set_multiple(extra.get_submodule(architecture.value), _SHRINK)
        _set_multiple(extra.get_submodule(architecture.attention_output), _SHRINK)


def _make_head(model: Any, architecture: Architecture, weight: Tensor, bias: Tensor) -> None:
    """Makes dense layer and activation the identity, and the output layer the linear layer."""
    dense, output = model.get_submodule(architecture.dense), model.get_submodule(architecture.output)
    factor, shift = _factor_and_shift(architecture)
    # In ModernBERT the LayerNorm that follows undoes the factor, and its epsilon becomes negligible.
    _set_multiple(dense, _SHRINK if model.config.model_type == "modernbert" else factor)
    output.weight.copy_(weight / factor)
    output.bias.copy_(bias - shift * weight.sum(1))
    if shift:
        dense.bias.fill_(shift)


def _factor_and_shift(architecture: Architecture) -> tuple[float, float]:
    """What the output layer reads is factor * feature + shift, in the range where the activation is the identity."""
    return {"tanh": (1 / _TANH_RANGE, 0.0), "positive": (1.0, _SHIFT), "linear": (1.0, 0.0)}[architecture.activation]


def _set_multiple(linear: nn.Linear, factor: float) -> None:
    """Makes `linear` multiply its input by `factor`."""
    linear.weight.zero_()
    linear.weight.fill_diagonal_(factor)
    if linear.bias is not None:
        linear.bias.zero_()
