"""Batches of token ids with little padding: short texts share a line, or a batch is cut in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_WIDE = 1024  # a line of this many tokens costs twice as much a token as a short one


class PackedLines(NamedTuple):
    """Lines that several texts share, which must not see each other: int64 (lines, length) each."""

    owner: Tensor  # which of the n texts a token belongs to; n for padding
    positions: Tensor  # of a token in its text


class Batch(NamedTuple):
    """n texts, a text a line unless lines are `shared`."""

    input_ids: Tensor  # (lines, length) int64
    attention_mask: Tensor  # (lines, length) int64: 1 for a token of a text, 0 for padding
    rows: Tensor  # (n,) int64: positions of the n texts in the list that was batched
    shared: PackedLines | None = None


def split_batch(lengths: Sequence[int]) -> int:
    """Where to cut texts of these rising lengths in two, 0 for nowhere.

    A pass over a batch costs its padded tokens plus a little of its own, so a batch is cut in two only if the padded
    tokens fall by an eighth or more.
    """
    whole = len(lengths) * lengths[-1]
    costs = [k * lengths[k - 1] + (len(lengths) - k) * lengths[-1] for k in range(1, len(lengths))]
    least = min(costs, default=whole)
    return costs.index(least) + 1 if least <= 0.875 * whole else 0


def pack_lines(lengths: Sequence[int]) -> list[list[int]]:
    """Which texts of these rising lengths share a line: by first-fit decreasing, in lines of one to four longest texts.

    Attention costs more in longer lines, so that the fewest padded tokens are not always the least.
    """
    best = [[i] for i in range(len(lengths))]
    least = 0.9 * _padded_cost(best, lengths)  # telling texts apart in a line has a cost too
    for longest in (1, 2, 3, 4):
        found: list[list[int]] = []
        room: list[int] = []
        for i in reversed(range(len(lengths))):
            line = next((line for line, left in enumerate(room) if left >= lengths[i]), len(found))
            if line == len(found):
                found.append([])
                room.append(longest * lengths[-1])
            found[line].append(i)
            room[line] -= lengths[i]
        if (cost := _padded_cost(found, lengths)) < least:
            best, least = found, cost
    return best


def _padded_cost(found: list[list[int]], lengths: Sequence[int]) -> float:
    width = max(sum(lengths[i] for i in line) for line in found)
    return len(found) * width * (1 + width / _WIDE)


def make_batch(
    ids: Sequence[list[int]], rows: list[int], found: list[list[int]], pad: int, device: torch.device
) -> Batch:
    """The texts `rows`, in lines that count them."""
    tokens = [[token for i in line for token in ids[rows[i]]] for line in found]
    shape = len(found), max(map(len, tokens))
    input_ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    for row, line in enumerate(tokens):
        input_ids[row, : len(line)] = torch.tensor(line)
        mask[row, : len(line)] = 1
    batch = Batch(input_ids.to(device), mask.to(device), torch.tensor(rows).to(device))
    if len(found) == len(rows):  # a text a line, in their order
        return batch
    owner, positions = torch.full(shape, len(rows)), torch.zeros(shape, dtype=torch.long)
    for row, line in enumerate(found):
        start = 0
        for i in line:
            end = start + len(ids[rows[i]])
            owner[row, start:end] = i
            positions[row, start:end] = torch.arange(end - start)
            start = end
    return batch._replace(shared=PackedLines(owner.to(device), positions.to(device)))
