"""Adapters against the weights written out: W + 2 B A, and its share at each blend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES

from metatext import Learner
from metatext.encoders.lora import AdaptedLinear, current_name, merged_state
from metatext.learners.weight_blending import BLENDS, blended

TEXTS = ["球队比赛冠军", "股票基金", "汽车轿车驾驶"]


def trained(folder: Path, rank: int = 2) -> Learner:
    """A learner whose adapters have moved, both factors of them."""
    learner = Learner.from_pretrained(folder, scope="lora", lora_rank=rank)
    generator = torch.Generator().manual_seed(3)
    for name, p in learner.encoder.named_parameters():
        if "lora_" in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return learner


def test_an_adapter_is_a_sum() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(torch.nn.Linear(5, 7), rank=3)
    x = torch.randn(2, 4, 5)
    assert torch.equal(layer(x), layer.base_layer(x))  # B starts at zero
    torch.nn.init.normal_(layer.lora_B.weight)
    w = layer.base_layer.weight + 2 * torch.einsum("or,ri->oi", layer.lora_B.weight, layer.lora_A.weight)
    expected = torch.einsum("oi,bti->bto", w, x) + layer.base_layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.merged_weight(), w)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_gets_adapters_that_merge(encoder_of: Callable[[str], Path], architecture: str) -> None:
    learner = trained(encoder_of(architecture))
    plain = Learner.from_pretrained(learner.base_model)
    adapted = [module for module in learner.encoder.modules() if isinstance(module, AdaptedLinear)]
    layers = 1 if architecture == "albert" else 2  # ALBERT's layers share their weights
    assert len(adapted) == layers * (1 if architecture == "modernbert" else 2)  # one matrix holds query and value
    missing, unexpected = plain.encoder.load_state_dict(merged_state(learner.encoder), strict=False)
    assert not missing and not unexpected
    torch.testing.assert_close(plain.encode(TEXTS), learner.encode(TEXTS), rtol=1e-4, atol=1e-4)


def test_a_blend_is_exactly_its_share_of_the_product(tiny_bert: Path) -> None:
    learner = trained(tiny_bert)
    start = dict(Learner.from_pretrained(tiny_bert).encoder.named_parameters())
    ends = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}
    changed = 0
    for share in BLENDS:
        with blended(learner, share), torch.no_grad():
            merged = merged_state(learner.encoder)
        for name, w in start.items():
            b, a = (ends.get(f"{name.removesuffix('.weight')}.lora_{which}.weight") for which in "BA")
            expected = w if a is None or b is None else w + share * 2.0 * (b @ a)
            torch.testing.assert_close(merged[name], expected.detach(), rtol=0, atol=1e-6)
            changed += int((merged[name] - w).abs().max() > 1e-2)
    assert changed == 4 * (len(BLENDS) - 1)  # two matrices in each of two layers, at all blends but 0
    assert all(torch.equal(p, ends[name]) for name, p in learner.encoder.named_parameters())


def test_names_of_earlier_files() -> None:
    assert current_name("encoder.layer.0.query.lora_B.default.weight") == "encoder.layer.0.query.lora_B.weight"
    assert current_name("encoder.default.weight") == "encoder.default.weight"
