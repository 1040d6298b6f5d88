"""Low-rank adapters (LoRA, Hu 2021) with peft. The base weights are frozen, and the adapters are meta-learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metatext.encoders.architectures import ARCHITECTURES
from metatext.errors import InputError

_MARK = ".lora_"
_BASE = ".base_layer"


def add_adapters(encoder: Any, rank: int) -> None:
    """Adds an adapter to the query and value matrices of every layer, and freezes all other weights, in place.

    Args:
        encoder: a supported base model.
        rank: rank of the adapters; their scale is 2.

    Raises:
        InputError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("scope='lora' needs peft: pip install 'metatext[lora]'") from error
    architecture = ARCHITECTURES[encoder.config.model_type]
    targets = sorted({path.rpartition(".")[2] for path in (architecture.query, architecture.value)})
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), encoder)
    generator = torch.Generator().manual_seed(0)  # every process starts from the same weights
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_MARK in name)
        if f"{_MARK}A" in name:  # the distribution that peft uses; B starts at zero
            bound = parameter.shape[1] ** -0.5
            parameter.data.uniform_(-bound, bound, generator=generator)


def adapter_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the weights of the adapters by their names in the encoder; empty if it has no adapters."""
    return {name: p.detach() for name, p in encoder.named_parameters() if _MARK in name}


def base_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the base weights of the encoder, under the names that they have without adapters."""
    return {name.replace(_BASE, ""): value for name, value in encoder.state_dict().items() if _MARK not in name}


def merged_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the weights of an equivalent encoder without adapters: each adapter is added to its matrix."""
    state = base_state(encoder)
    for name, module in encoder.named_modules():
        if hasattr(module, "get_delta_weight"):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    return state
