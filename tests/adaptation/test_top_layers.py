"""Features from the top layers with cached states below: equal to the encoder's own, and what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_encoder, make_rows

from metatext import Learner
from metatext.adaptation import top_layers
from metatext.adaptation.top_layers import TopLayers
from metatext.encoders.architectures import ARCHITECTURES

TEXTS = [row["text"] * (1 + i % 3) for i, row in enumerate(make_rows(0, 6))]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_features_and_gradients_are_those_of_the_encoder(
    tiny_bert: Path, pooling: str, packed: bool, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cached:
        monkeypatch.setattr(top_layers, "_MAX_CACHED_VALUES", 0)
    monkeypatch.setattr(Learner, "packs", packed)
    learner = Learner.from_pretrained(tiny_bert, pooling=pooling, batch_size=8).double()
    layers = TopLayers(learner, TEXTS, 1 / 3)
    rows = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0))[:20]
    expected = learner.vectors([TEXTS[row] for row in rows], 8)
    found = layers.features(rows)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    parameters = layers.parameters()
    for own, other in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(own, other)
    assert learner.parts is None


@pytest.mark.parametrize(("number", "top"), [(1, [0]), (2, [1]), (6, [4, 5]), (7, [5, 6])])
def test_the_top_third_is_trained(tmp_path: Path, number: int, top: list[int]) -> None:
    learner = Learner.from_pretrained(make_encoder(tmp_path / "encoder", layers=number))
    trained = {id(p) for p in TopLayers(learner, TEXTS, 1 / 3).parameters()}
    expected = {id(p) for layer in top for p in learner.encoder.encoder.layer[layer].parameters()}
    if number == 1:  # nothing to split off
        assert trained >= expected and id(learner.encoder.get_input_embeddings().weight) not in trained
    else:
        assert trained == expected


def test_adapters_are_left_and_base_weights_trained(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope="lora")
    trained = {id(p) for p in TopLayers(learner, TEXTS, 1 / 3).parameters()}
    names = [name for name, p in learner.encoder.named_parameters() if id(p) in trained]
    assert names and all("layer.1." in name and "lora" not in name.lower() for name in names)
    assert any("query" in name for name in names)


def test_a_learner_of_another_split_keeps_it(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope="top:1")
    parts = learner.parts
    layers = TopLayers(learner, TEXTS, 1 / 3)
    torch.testing.assert_close(layers.features(torch.arange(3)), learner.encode(TEXTS[:3]))
    assert learner.parts is parts


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_has_its_features(encoder_of: Callable[[str], Path], architecture: str) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture))
    found = TopLayers(learner, TEXTS, 1 / 3).features(torch.arange(8))
    torch.testing.assert_close(found, learner.encode(TEXTS[:8]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_only_top_layers_are_trained_in_every_architecture(
    encoder_of: Callable[[str], Path], architecture: str
) -> None:
    learner = Learner.from_pretrained(encoder_of(architecture))
    layers = TopLayers(learner, TEXTS, 1 / 3)
    stack = learner.encoder.get_submodule(ARCHITECTURES[learner.encoder.config.model_type].layers)
    trained = {id(p) for p in layers.parameters()}
    assert layers.whole == (len(stack) == 1) == (architecture == "albert")
    if not layers.whole:
        assert trained == {id(p) for p in stack[-1].parameters()}
