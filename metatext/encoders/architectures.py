"""Supported architectures of transformers: the module paths of their parts, and properties of their layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metatext.errors import InputError


def first_position(config: Any) -> int:
    """Returns the position number that the encoder gives to the first token of a text."""
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return int(config.pad_token_id) + 1
    return 0


def positions(config: Any) -> int:
    """Returns the length in tokens of the longest input that the encoder has positions for."""
    return int(config.max_position_embeddings) - first_position(config)


@dataclass(frozen=True)
class Architecture:
    """Module paths of an architecture's parts, and properties of its layers.

    Attributes:
        layers: path of the list of layers, relative to the base model.
        depth: field of the configuration that holds the number of layers.
        query, key, value, attention_output, attention_norm, feed_in, feed_out, norm: paths relative to a layer.
        dense, output: paths relative to the sequence classifier.
        activation: function between dense and output: "tanh", "linear", or "positive" (ReLU and GELU, which are the
            identity on large enough positive input).
        absolute: positions enter through the embeddings only. Several texts can then share a line of a batch.
        separable: a layer needs only the output of the layer below, and shares no parameters. This does not hold for
            DeBERTa (convolution), ModernBERT (alternating attention) and ALBERT (shared layers).
    """

    layers: str = "encoder.layer"
    depth: str = "num_hidden_layers"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    feed_in: str = "intermediate.dense"
    feed_out: str = "output.dense"
    norm: str = "output.LayerNorm"
    dense: str = "classifier.dense"
    activation: str = "tanh"
    output: str = "classifier.out_proj"
    absolute: bool = True
    separable: bool = True


_DEBERTA = Architecture(
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    dense="pooler.dense",
    activation="linear",
    output="classifier",
    absolute=False,
    separable=False,
)
ARCHITECTURES = {
    "bert": Architecture(dense="bert.pooler.dense", output="classifier"),
    "roberta": Architecture(),
    "xlm-roberta": Architecture(),
    "camembert": Architecture(),
    "electra": Architecture(activation="positive"),
    "deberta-v2": _DEBERTA,
    "albert": Architecture(
        layers="encoder.albert_layer_groups",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        attention_output="albert_layers.0.attention.dense",
        attention_norm="albert_layers.0.attention.LayerNorm",
        feed_in="albert_layers.0.ffn",
        feed_out="albert_layers.0.ffn_output",
        norm="albert_layers.0.full_layer_layer_norm",
        dense="albert.pooler",
        output="classifier",
        separable=False,
    ),
    "distilbert": Architecture(
        layers="transformer.layer",
        depth="n_layers",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        feed_in="ffn.lin1",
        feed_out="ffn.lin2",
        norm="output_layer_norm",
        dense="pre_classifier",
        activation="positive",
        output="classifier",
    ),
    "modernbert": Architecture(
        layers="layers",
        query="attn.Wqkv",
        value="attn.Wqkv",
        dense="head.dense",
        activation="linear",
        output="classifier",
        absolute=False,
        separable=False,
    ),
}


def check_supported(config: Any, name: str) -> None:
    """Refuses an encoder whose transformers classifier cannot compute the function of a learner.

    Raises:
        InputError: names the architecture, the reason, and the supported architectures.
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
