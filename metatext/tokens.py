"""Token ids: each text is tokenised once; batches have little padding, since short texts share a line or a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import east_asian_width

import torch
from torch import Tensor

from metatext.errors import InputError

_LETTERS = 1.5  # of an alphabet, in a part of a word that can mean something, on average
_WIDE = 1024  # a line of this many tokens costs twice as much a token as a short one


class Shared(NamedTuple):
    """Lines that several texts share, which must not see each other: int64 (lines, length) each."""

    owner: Tensor  # which of the n texts a token belongs to; n for padding
    positions: Tensor  # of a token in its text


class Batch(NamedTuple):
    """n texts, a text a line unless lines are `shared`."""

    input_ids: Tensor  # (lines, length) int64
    attention_mask: Tensor  # (lines, length) int64: 1 for a token of a text, 0 for padding
    rows: Tensor  # (n,) int64: positions of the n texts in the list that was batched
    shared: Shared | None = None


def load_tokenizer(folder: str | Path, text_prefix: str = "") -> Any:
    """The fast tokenizer of `folder`, made to put `text_prefix` before every text by itself.

    The prefix is part of the tokenizer's own file from then on, so plain transformers applies it too.

    Raises:
        InputError: there is no tokenizer, or a prefix is asked of one without a fast implementation.
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = {path.name for path in Path(folder).iterdir()}
    if not files & {"tokenizer.json", "vocab.txt", "vocab.json"} and not any(name.endswith(".model") for name in files):
        # transformers 5 would make a tokenizer of special tokens only
        raise InputError(f"{folder} has no tokenizer: no tokenizer.json or vocabulary file is in it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} has no tokenizer that transformers can load: {_first_line(error)}") from error
    tokenizer.padding_side = "right"
    if not text_prefix:
        return tokenizer
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer of {folder} has no fast implementation, which text_prefix needs")
    backend = tokenizer.backend_tokenizer
    parts = [normalizers.Prepend(text_prefix), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(parts)
    # The generic class loads tokenizer.json as it stands; a model's own class would rebuild the normaliser without the
    # prefix.
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side="right",
        **special,
    )


class TokenCache:
    """Remembers the token ids of every text that it has seen."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._ids: dict[str, list[int]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenCache:
        return TokenCache(self.tokenizer, self.max_length)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at `max_length`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            encoded = self.tokenizer(new, truncation=True, max_length=self.max_length)
            self._ids.update(zip(new, encoded["input_ids"], strict=True))
        return [self._ids[text] for text in texts]

    def reads(self, name: str) -> bool:
        """Whether the vocabulary has words for a name, or parts of words that can mean something.

        One of another language has none: most of the name is unknown to it, or is spelled by letters or their bytes.
        """
        words = "".join(c if c.isalnum() else " " for c in name)
        parts = self._parts(words)[len(self._parts(" ")) :]  # of which a tokenizer with a prefix makes the prefix
        most = sum(1 / _LETTERS if c.isalpha() and east_asian_width(c) not in "WF" else 1 for c in words if c != " ")
        return 2 * parts.count(self.tokenizer.unk_token) < len(parts) <= math.ceil(most)

    def _parts(self, text: str) -> list[str]:
        """The tokens of a text without marks of where words begin or go on."""
        # truncated as in `ids`: the tokenizer keeps how it was called last, and is saved so
        call = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.max_length)
        tokens = self.tokenizer.convert_ids_to_tokens(call["input_ids"])
        return [part for token in tokens if (part := token.lstrip("▁Ġ#"))]

    def batches(self, texts: Sequence[str], size: int, device: torch.device, packed: bool = False) -> list[Batch]:
        """Batches of at most `size` texts of similar length, together all of `texts`.

        Args:
            texts: any number.
            size: most texts of a batch.
            device: where the batches are put.
            packed: let short texts share a line where that saves padding; otherwise a batch is cut in two.
        """
        ids = self.ids(texts)
        pad = self.tokenizer.pad_token_id or 0
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        result = []
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            lengths = [len(ids[i]) for i in rows]
            if packed:
                result.append(_batch(ids, rows, lines(lengths), pad, device))
            else:
                k = cut(lengths)
                parts = [part for part in (rows[:k], rows[k:]) if part]
                result += [_batch(ids, part, [[i] for i in range(len(part))], pad, device) for part in parts]
        return result


def cut(lengths: Sequence[int]) -> int:
    """Where to cut texts of these rising lengths in two, 0 for nowhere.

    A pass over a batch costs its padded tokens plus a little of its own, so a batch is cut in two only if the padded
    tokens fall by an eighth or more.
    """
    whole = len(lengths) * lengths[-1]
    costs = [k * lengths[k - 1] + (len(lengths) - k) * lengths[-1] for k in range(1, len(lengths))]
    least = min(costs, default=whole)
    return costs.index(least) + 1 if least <= 0.875 * whole else 0


def lines(lengths: Sequence[int]) -> list[list[int]]:
    """Which texts of these rising lengths share a line: by first-fit decreasing, in lines of one to four longest texts.

    Attention costs more in longer lines, so that the fewest padded tokens are not always the least.
    """
    best = [[i] for i in range(len(lengths))]
    least = 0.9 * _cost(best, lengths)  # telling texts apart in a line has a cost too
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
        if (cost := _cost(found, lengths)) < least:
            best, least = found, cost
    return best


def _cost(found: list[list[int]], lengths: Sequence[int]) -> float:
    width = max(sum(lengths[i] for i in line) for line in found)
    return len(found) * width * (1 + width / _WIDE)


def _batch(ids: Sequence[list[int]], rows: list[int], found: list[list[int]], pad: int, device: torch.device) -> Batch:
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
    return batch._replace(shared=Shared(owner.to(device), positions.to(device)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
