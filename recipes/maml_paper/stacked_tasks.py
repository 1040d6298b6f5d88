"""A meta-batch of small tasks as one: the parameters of each task in a stack, (tasks, *shape), computed together."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

from metatext.core.gradients import Gradient


def copies(net: nn.Module, tasks: int) -> list[Tensor]:
    """The net's parameters, for each task its own: (tasks, *shape)."""
    return [p.detach().expand(tasks, *p.shape).clone().requires_grad_() for p in net.parameters()]


def call(net: nn.Module, parameters: list[Tensor], inputs: Tensor) -> Any:
    """What the net gives for each task's inputs, (tasks, ...), under the task's own parameters."""
    names = [name for name, _ in net.named_parameters()]
    return vmap(partial(functional_call, net))(dict(zip(names, parameters, strict=True)), inputs)


def set_gradients(net: nn.Module, gradients: Gradient) -> None:
    """Gives the net, for an optimiser, the meta-gradient: the sum of those of its copies."""
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.sum(0)
