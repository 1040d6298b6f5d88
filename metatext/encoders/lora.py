"""Low-rank adapters (LoRA, Hu 2021). The base weights are frozen, and the adapters are meta-learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metatext.encoders.architectures import ARCHITECTURES

SCALE = 2.0
"""Factor of an adapter's product."""

_MARK, _UP = ".lora_", ".lora_B."
_BASE = ".base_layer"


class AdaptedLinear(nn.Module):
    """A linear layer with an adapter: (W + SCALE * B A) x + c.

    Args:
        base_layer: the layer W x + c, (features out, features in).
        rank: rank of the product B A. B starts at zero.
    """

    def __init__(self, base_layer: nn.Linear, rank: int) -> None:
        super().__init__()
        like: dict[str, Any] = {"dtype": base_layer.weight.dtype, "device": base_layer.weight.device}
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False, **like)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., features in) to (..., features out)."""
        output: Tensor = self.base_layer(x) + self.lora_B(SCALE * self.lora_A(x))
        return output

    def merged_weight(self) -> Tensor:
        """Returns W + SCALE * B A, (features out, features in)."""
        return self.base_layer.weight + SCALE * self.lora_B.weight @ self.lora_A.weight


def add_adapters(encoder: Any, rank: int) -> None:
    """Adds an adapter to the query and value matrices of every layer, and freezes all other weights, in place.

    Args:
        encoder: a supported base model.
        rank: rank of the adapters.
    """
    architecture = ARCHITECTURES[encoder.config.model_type]
    targets = {path.rpartition(".")[2] for path in (architecture.query, architecture.value)}
    for name, module in list(encoder.named_modules()):
        parent, _, own_name = name.rpartition(".")
        if own_name in targets and isinstance(module, nn.Linear):
            setattr(encoder.get_submodule(parent), own_name, AdaptedLinear(module, rank))
    generator = torch.Generator().manual_seed(0)  # every process starts from the same weights
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_MARK in name)
        if f"{_MARK}A" in name:
            bound = parameter.shape[1] ** -0.5
            parameter.data.uniform_(-bound, bound, generator=generator)


def adapter_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the weights of the adapters by their names in the encoder; empty if it has no adapters."""
    return {name: p.detach() for name, p in encoder.named_parameters() if _MARK in name}


def before_training(encoder: Any) -> dict[str, Tensor]:
    """Returns what an encoder is interpolated with: its trainable parameters before training, float16, by name.

    Of an adapter this is the factor B alone, which starts at zero. With b times B, the product B A is exactly b times
    the trained one. If A were interpolated too, the product would leave the line.

    Args:
        encoder: without adapters, its present parameters are taken; with adapters, it may be trained already.
    """
    if adapters := adapter_state(encoder):
        return {name: torch.zeros_like(p, dtype=torch.float16) for name, p in adapters.items() if _UP in name}
    return {name: p.detach().to(torch.float16) for name, p in encoder.named_parameters() if p.requires_grad}


def current_name(name: str) -> str:
    """Returns the present name of a parameter from a file of metatext 0.1, where adapters were those of peft.

    Example:
        >>> current_name("layer.0.attention.self.query.lora_A.default.weight")
        'layer.0.attention.self.query.lora_A.weight'
    """
    return name.replace(".default.", ".") if _MARK in name else name


def base_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the base weights of the encoder, under the names that they have without adapters."""
    return {name.replace(_BASE, ""): value for name, value in encoder.state_dict().items() if _MARK not in name}


def merged_state(encoder: Any) -> dict[str, Tensor]:
    """Returns the weights of an equivalent encoder without adapters: each adapter is added to its matrix."""
    state = base_state(encoder)
    for name, module in encoder.named_modules():
        if isinstance(module, AdaptedLinear):
            state[f"{name}.weight"] = module.merged_weight()
    return state
