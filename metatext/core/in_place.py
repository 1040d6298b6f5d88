"""Changes the values of tensors in place while autograd graphs refer to the tensors.

The losses of a task read the tensors of a model, usually its parameters. The inner loop therefore changes the values of
these tensor objects and does not replace the objects. No functional copy of the model is needed, tied parameters stay
tied, and a first-order step allocates nothing but the gradient.

An ordinary in-place operation raises the version of a tensor, and autograd then refuses every graph that saved the
tensor. All changes here go through `tensor.data`, which leaves the version alone:

- an operation on `tensor.data` changes the values in the memory of the tensor;
- the assignment `tensor.data = values` lets the tensor use other memory. The old memory keeps its values.

autograd cannot notice these changes, so the caller must keep the values right. A graph that was recorded at theta_k may
refer to the tensors themselves, or to views of their memory. For a backward pass through it, the memory at the time of
recording must be unchanged (`switch_to_copies` after recording), and the tensors must use it (`put_back` before the
backward pass).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates


def move(tensors: list[Tensor], direction: Gradient, rates: Rates, factor: float) -> None:
    """Adds factor * rates * direction to the values of tensors, in place.

    Args:
        tensors: tensors to change.
        direction: one entry per tensor.
        rates: one rate per tensor. Neighbouring tensors with equal rates are updated in one call.
        factor: common factor; -1 with a gradient makes a step of gradient descent.

    Example:
        >>> x = torch.tensor([1.0, 2.0])
        >>> move([x], [torch.tensor([10.0, 20.0])], [0.25], -1.0)
        >>> x
        tensor([-1.5000, -3.0000])
    """
    triples = [(r, t.data, g) for r, t, g in zip(rates, tensors, direction, strict=True) if g is not None]
    for rate, run in groupby(triples, key=lambda triple: triple[0] if isinstance(triple[0], float) else None):
        each, values, steps = (list(column) for column in zip(*run, strict=True))
        if rate is None:
            torch._foreach_addcmul_(values, steps, each, value=factor)
        else:
            torch._foreach_add_(values, steps, alpha=factor * rate)


@contextmanager
def in_scratch_memory(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Lets tensors use a copy of their values within the block, and restores them exactly afterwards.

    The original memory is never written to, so the values are restored after an exception too.

    Args:
        tensors: tensors whose values may change within the block.

    Yields:
        The original values. Do not change them.

    Example:
        >>> x = torch.ones(2)
        >>> with in_scratch_memory([x]):
        ...     move([x], [torch.ones(2)], [1.0], 1.0)
        ...     print(x)
        tensor([2., 2.])
        >>> x
        tensor([1., 1.])
    """
    original = switch_to_copies(tensors)
    try:
        yield original
    finally:
        put_back(tensors, original)


def put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Lets each tensor use the memory of the matching tensor in `values`."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def switch_to_copies(tensors: list[Tensor]) -> list[Tensor]:
    """Lets each tensor use a copy of its values, and returns the values in the memory that it used so far."""
    values = [tensor.data for tensor in tensors]
    put_back(tensors, [value.clone() for value in values])
    return values
