"""Token ids: each text is tokenised once; batches are padded to their own longest text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metatext.errors import InputError


class Batch(NamedTuple):
    """Padded texts: `input_ids` and `attention_mask` are int64 (n, length); `rows` says which texts they are."""

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor  # (n,) int64, positions in the list of texts that was batched


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

    def batches(self, texts: Sequence[str], size: int, device: torch.device) -> list[Batch]:
        """Batches of at most `size` texts of similar length, together all of `texts`."""
        ids = self.ids(texts)
        pad = self.tokenizer.pad_token_id
        return [_pad([ids[i] for i in rows], rows, 0 if pad is None else pad, device) for rows in buckets(ids, size)]


def buckets(ids: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Row numbers by length, cut into batches of at most `size`, and once more where that saves much padding.

    A pass over a batch costs its padded tokens plus a little of its own, so a batch is cut in two only if the padded
    tokens fall by an eighth or more.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    result = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        lengths = [len(ids[i]) for i in rows]
        whole = len(rows) * lengths[-1]
        cost, cut = min(
            ((k * lengths[k - 1] + (len(rows) - k) * lengths[-1], k) for k in range(1, len(rows))), default=(whole, 0)
        )
        result += [rows[:cut], rows[cut:]] if cost <= 0.875 * whole else [rows]
    return result


def _pad(ids: list[list[int]], rows: list[int], pad: int, device: torch.device) -> Batch:
    longest = max(len(i) for i in ids)
    input_ids = torch.tensor([i + [pad] * (longest - len(i)) for i in ids])
    mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids])
    return Batch(input_ids.to(device), mask.to(device), torch.tensor(rows).to(device))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
