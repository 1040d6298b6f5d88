"""Computes all tasks of a meta-batch at once: each task has its own copy of the parameters, stacked (tasks, *shape)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

from metatext.core.gradients import Gradient


def parameter_copies(net: nn.Module, tasks: int) -> list[Tensor]:
    """Returns one stack of copies per parameter of the net, (tasks, *shape), each requiring a gradient."""
    return [p.detach().expand(tasks, *p.shape).clone().requires_grad_() for p in net.parameters()]


def call_per_task(net: nn.Module, parameters: list[Tensor], inputs: Tensor) -> Any:
    """Returns the net's output for each task's inputs, (tasks, ...), under that task's copy of the parameters."""
    names = [name for name, _ in net.named_parameters()]
    return vmap(partial(functional_call, net))(dict(zip(names, parameters, strict=True)), inputs)


def set_gradients(net: nn.Module, gradients: Gradient) -> None:
    """Sets the `grad` of the net's parameters to the meta-gradient, the sum of the gradients of the copies.

    Args:
        net: the net whose parameters were copied.
        gradients: the gradient of each stack of copies, (tasks, *shape), or None.
    """
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.sum(0)
