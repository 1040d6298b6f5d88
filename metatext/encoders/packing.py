"""Batches of token ids with little padding. Short texts share a line, or a batch is split in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Length of a line, in tokens, at which attention makes a token cost twice as much as in a short line.
_DOUBLE_COST_LENGTH = 1024


class PackedLines(NamedTuple):
    """Text and position of each token, if texts share lines. Attention must not cross texts.

    Both tensors are int64 (lines, length).
    """

    owner: Tensor  # number of the token's text, 0 .. n - 1; n for padding
    positions: Tensor  # position of the token in its text


class Batch(NamedTuple):
    """Tokens of n texts. A line (row of the tensors) holds one text, or several if `shared` is given."""

    input_ids: Tensor  # (lines, length) int64
    attention_mask: Tensor  # (lines, length) int64: 1 for a token of a text, 0 for padding
    rows: Tensor  # (n,) int64: indices of the texts in the list that was batched
    shared: PackedLines | None = None


class LabelledBatches(NamedTuple):
    """Examples as padded batches of token ids."""

    batches: list[tuple[Batch, Tensor]]  # each batch of n texts with its labels, int64 (n,)
    size: int  # number of texts in all batches

    def class_counts(self, ways: int) -> Tensor:
        """Returns the number of texts of each class, int64 (ways,)."""
        return torch.bincount(torch.cat([labels for _, labels in self.batches]), minlength=ways)


def split_batch(lengths: Sequence[int]) -> int:
    """Returns the best number of texts for the first of two batches; 0 for a single batch.

    A batch has a fixed cost besides the cost of its padded tokens. Two batches must therefore save an eighth of the
    padded tokens.

    Args:
        lengths: lengths of the texts in tokens, in ascending order.

    Example:
        >>> split_batch([2, 2, 9]), split_batch([8, 9])
        (2, 0)
    """
    whole = len(lengths) * lengths[-1]
    costs = [k * lengths[k - 1] + (len(lengths) - k) * lengths[-1] for k in range(1, len(lengths))]
    least = min(costs, default=whole)
    return costs.index(least) + 1 if least <= 0.875 * whole else 0


def pack_lines(lengths: Sequence[int]) -> list[list[int]]:
    """Packs texts into lines by first-fit decreasing.

    The function tries lines of one to four times the longest text and returns the cheapest packing. A token costs more
    in a longer line, so the packing with the fewest padded tokens is not always the cheapest.

    Args:
        lengths: lengths of the texts in tokens, in ascending order.

    Returns:
        For each line, the indices of its texts.

    Example:
        >>> pack_lines([2, 2, 4])
        [[2], [1, 0]]
    """
    best = [[i] for i in range(len(lengths))]
    least = 0.9 * _padded_cost(best, lengths)  # packing must save a tenth, because the mask between texts has a cost
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


def _padded_cost(lines: list[list[int]], lengths: Sequence[int]) -> float:
    """Returns the cost of a pass over padded lines; the unit is the cost of a token in a short line."""
    width = max(sum(lengths[i] for i in line) for line in lines)
    return len(lines) * width * (1 + width / _DOUBLE_COST_LENGTH)


def make_batch(
    ids: Sequence[list[int]], rows: list[int], lines: list[list[int]], pad: int, device: torch.device
) -> Batch:
    """Makes a batch of the texts `rows`.

    Args:
        ids: token ids of all texts.
        rows: indices of the texts of the batch.
        lines: for each line, its texts as indices into `rows`.
        pad: token id of padding.
        device: device of the batch.
    """
    tokens = [[token for i in line for token in ids[rows[i]]] for line in lines]
    shape = len(lines), max(map(len, tokens))
    input_ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    for row, line in enumerate(tokens):
        input_ids[row, : len(line)] = torch.tensor(line)
        mask[row, : len(line)] = 1
    batch = Batch(input_ids.to(device), mask.to(device), torch.tensor(rows).to(device))
    if len(lines) == len(rows):  # one text per line
        return batch
    owner, positions = torch.full(shape, len(rows)), torch.zeros(shape, dtype=torch.long)
    for row, line in enumerate(lines):
        start = 0
        for i in line:
            end = start + len(ids[rows[i]])
            owner[row, start:end] = i
            positions[row, start:end] = torch.arange(end - start)
            start = end
    return batch._replace(shared=PackedLines(owner.to(device), positions.to(device)))
