"""Moves the values of tensors while autograd graphs hold the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from metatext.core.gradients import Gradient, Rates


def move(tensors: list[Tensor], direction: Gradient, rates: Rates, factor: float) -> None:
    """tensors += factor * rates * direction, in place; equal rates in a row go together."""
    triples = [(r, t.data, g) for r, t, g in zip(rates, tensors, direction, strict=True) if g is not None]
    for rate, run in groupby(triples, key=lambda triple: triple[0] if isinstance(triple[0], float) else None):
        each, values, steps = (list(column) for column in zip(*run, strict=True))
        if rate is None:
            torch._foreach_addcmul_(values, steps, each, value=factor)
        else:
            torch._foreach_add_(values, steps, alpha=factor * rate)


@contextmanager
def in_scratch_memory(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The values of `tensors` live in a copy within the block; yields the originals, which are back after it."""
    home = leave_for_scratch_memory(tensors)
    try:
        yield home
    finally:
        put_back(tensors, home)


def put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Lets `tensors` have their values in the memory of `values`."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def leave_for_scratch_memory(tensors: list[Tensor]) -> list[Tensor]:
    # `.data` moves a tensor to other memory without a new version, so that graphs which hold it stay usable
    values = [tensor.data for tensor in tensors]
    put_back(tensors, [value.clone() for value in values])
    return values
