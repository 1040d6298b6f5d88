"""From an encoder, a pooling and a linear layer to an ordinary transformers sequence classifier.

A learner computes logits = W norm(pool(encoder(x))) + b, where pool is the mean over the tokens or the first token and
norm a LayerNorm without weights. Most classifiers of transformers look at the first token only, through a dense layer
and an activation. Two constructions make them compute the same function, so that the saved folder needs no metatext:

- One more encoder layer. With zero queries and keys attention is uniform, so its output is the mean over the tokens;
  values and output are multiples of the identity, the feed-forward part is zero, and the layer's own LayerNorm is norm.
  The residual connection is made 2^20 times smaller than the mean, half of it by scaling the last LayerNorm of the
  encoder down. With output zero instead, the residual alone is normalised: first-token pooling.
- The dense layer and its activation become the identity: tanh by staying near zero, ReLU and GELU by a bias that keeps
  their input positive.

ModernBERT has mean pooling and a LayerNorm of its own, so only its dense layer is set.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metatext.encoders.architectures import ARCHITECTURES, Architecture
from metatext.encoders.lora import merged_state
from metatext.errors import InputError

_SHRINK = 2.0**10  # the residual is smaller than the mean by the square of this; fits float16 as well
_TANH_RANGE = 2.0**12  # features reach tanh divided by this: an error below 1e-5 at 20 times their standard deviation
_SHIFT = 32.0  # a bias larger than any normalised feature of up to 1,024 dimensions, which has at most sqrt(1024)


def check_supported(config: Any, name: str) -> None:
    """Refuses an encoder whose transformers classifier cannot compute the learner's function.

    Raises:
        InputError: naming the architecture, why, and which are supported.
    """
    known = config.model_type in ARCHITECTURES and not getattr(config, "is_decoder", False)
    if known and (config.model_type != "albert" or config.inner_group_num == 1):
        return
    why = (
        "it is a decoder or an encoder-decoder, whose classifier reads the last token"
        if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "is_decoder") or config.is_decoder
        else "its transformers classifier cannot be made to pool as a learner does"
    )
    raise InputError(
        f"{name} is a {config.model_type!r} model, which metatext cannot export as a plain transformers classifier: "
        f"{why}; supported are {', '.join(ARCHITECTURES)}"
    )


def to_classifier(encoder: Any, pooling: str, layer: tuple[Tensor, Tensor], classes: Sequence[str]) -> Any:
    """A transformers `...ForSequenceClassification` that computes `layer` on the normalised, pooled encoder output.

    Args:
        encoder: a supported base model (`AutoModel`), float32; it is not changed and shares no memory with the result.
        pooling: "mean" or "cls".
        layer: weight (ways, hidden) and bias (ways,) of the linear layer.
        classes: the name of each row of `layer`; become `id2label`.
    """
    from transformers import AutoModelForSequenceClassification

    layout = ARCHITECTURES[encoder.config.model_type]
    config = copy.deepcopy(encoder.config)
    config.num_labels = len(classes)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}
    config.dtype = torch.float32
    native = config.model_type == "modernbert"
    if native:
        config.classifier_pooling, config.classifier_activation = pooling, "linear"
    else:
        setattr(config, layout.depth, getattr(config, layout.depth) + 1)
    if config.model_type == "deberta-v2":
        config.pooler_hidden_act = "linear"
    if config.model_type == "albert":  # one group a layer: the shared layer is written out, so that the last can differ
        config.num_hidden_groups = config.num_hidden_layers
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        _copy_encoder(encoder, model.base_model)
        if not native:
            layers = model.base_model.get_submodule(layout.layers)
            _make_pooling_layer(layers[-2], layers[-1], layout, pooling)
        _make_head(model, layout, *(tensor.cpu() for tensor in layer))
    return model.to(encoder.device)


def _copy_encoder(encoder: Any, base: Any) -> None:
    state = merged_state(encoder)
    if encoder.config.model_type == "albert":
        state = _written_out(state, encoder.config)
    _, unexpected = base.load_state_dict(state, strict=False)
    assert not unexpected, unexpected


def _written_out(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """ALBERT's shared groups, copied once for each layer that uses them."""
    head = "encoder.albert_layer_groups."
    result = {name: value for name, value in state.items() if not name.startswith(head)}
    for layer in range(config.num_hidden_layers):
        group = int(layer / (config.num_hidden_layers / config.num_hidden_groups))
        start = f"{head}{group}."
        result |= {f"{head}{layer}.{n[len(start) :]}": v for n, v in state.items() if n.startswith(start)}
    return result


def _make_pooling_layer(last: Any, extra: Any, layout: Architecture, pooling: str) -> None:
    for name in ("query", "key", "value", "attention_output", "feed_in", "feed_out"):
        _set_multiple(extra.get_submodule(getattr(layout, name)), 0.0)
    for name in ("attention_norm", "norm"):
        norm = extra.get_submodule(getattr(layout, name))
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    if pooling == "mean":
        residual = last.get_submodule(layout.norm)
        residual.weight.div_(_SHRINK)
        residual.bias.div_(_SHRINK)
        _set_multiple(extra.get_submodule(layout.value), _SHRINK)
        _set_multiple(extra.get_submodule(layout.attention_output), _SHRINK)


def _make_head(model: Any, layout: Architecture, weight: Tensor, bias: Tensor) -> None:
    dense, output = model.get_submodule(layout.dense), model.get_submodule(layout.output)
    factor = {"tanh": 1 / _TANH_RANGE, "positive": 1.0, "linear": 1.0}[layout.activation]
    if model.config.model_type == "modernbert":
        factor = _SHRINK  # before a LayerNorm, whose epsilon it makes negligible
    _set_multiple(dense, factor)
    output.weight.copy_(weight * _TANH_RANGE if layout.activation == "tanh" else weight)
    output.bias.copy_(bias)
    if layout.activation == "positive":
        dense.bias.fill_(_SHIFT)
        output.bias.sub_(_SHIFT * weight.sum(1))


def _set_multiple(linear: nn.Linear, factor: float) -> None:
    """Makes `linear` multiply by `factor`."""
    linear.weight.zero_()
    linear.weight.fill_diagonal_(factor)
    if linear.bias is not None:
        linear.bias.zero_()
