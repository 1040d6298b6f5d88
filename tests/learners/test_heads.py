"""Heads: the linear layer that a task starts from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metatext import InputError
from metatext.learners.heads import LinearHead, LinearLayer, PrototypeHead


def test_prototype_logits_are_scaled_squared_distances() -> None:
    rng = np.random.default_rng(0)
    centroids, points = rng.normal(size=(4, 16)), rng.normal(size=(7, 16))
    head = PrototypeHead(scale=3.0).double()
    layer = head.start(["a", "b", "c", "d"], torch.tensor(centroids))
    distances = ((points[:, None] - centroids[None]) ** 2).sum(2)
    expected = -3.0 / 16 * distances
    got = layer.logits(torch.tensor(points)).detach().numpy()
    offset = (got - expected)[:, :1]  # differs from text to text, not from class to class
    np.testing.assert_allclose(got, expected + offset, rtol=1e-6)  # the scale's logarithm was stored in float32
    assert (got.argmax(1) == distances.argmin(1)).all()


def test_prototype_layer_by_hand() -> None:
    layer = PrototypeHead(scale=4.0).start(["a", "b"], torch.tensor([[1.0, 0.0], [1.0, -2.0]]))
    torch.testing.assert_close(layer.weight, torch.tensor([[4.0, 0.0], [4.0, -8.0]]))
    torch.testing.assert_close(layer.bias, torch.tensor([-2.0, -10.0]))


def test_prototype_head_has_one_parameter_and_starts_at_scale_32() -> None:
    ((name, log_scale),) = PrototypeHead().named_parameters()
    assert (name, log_scale.item()) == ("log_scale", pytest.approx(math.log(32), abs=1e-6))


def test_linear_head_starts_at_zero() -> None:
    head = LinearHead(["a", "b", "c"], 4)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {"weight": (3, 4), "bias": (3,)}
    assert not any(p.any() for p in head.parameters())


def test_linear_head_gives_each_class_its_own_row() -> None:
    head = LinearHead(["car", "food", "sport", "tech"], 2)
    head.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    head.bias.data = torch.tensor([0.1, 0.2, 0.3, 0.4])
    layer = head.start(["tech", "car"])
    assert layer.weight.tolist() == [[7.0, 8.0], [1.0, 2.0]]
    assert layer.bias.tolist() == pytest.approx([0.4, 0.1])


def test_linear_layer_by_hand() -> None:
    layer = LinearLayer(torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]), torch.tensor([0.5, 0.0, -1.0]))
    assert layer.logits(torch.tensor([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[3.5, -1.0, 2.0], [2.5, 0.0, 5.0]]


def test_unknown_label_is_named_with_those_known_and_the_way_out() -> None:
    with pytest.raises(InputError) as raised:
        LinearHead(["food", "car"], 4).start(["car", "travel", "music"])
    assert str(raised.value) == (
        "label 'music' is unknown to this learner, whose learned head knows food, car; "
        "a learner with head='prototype' takes any labels"
    )


@pytest.mark.parametrize("classes", [[], ["car"], ["car", "car"]])
def test_linear_head_needs_two_classes(classes: list[str]) -> None:
    with pytest.raises(InputError, match=r"^head='linear' needs the class names: classes=\[...\], at least two$"):
        LinearHead(classes, 4)
