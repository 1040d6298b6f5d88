"""Token ids: each text is tokenised once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import torch

from metatext.encoders.packing import Batch, make_batch, pack_lines, split_batch
from metatext.errors import InputError

_LETTERS = 1.5  # of an alphabet, in a part of a word that can mean something, on average


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
                result.append(make_batch(ids, rows, pack_lines(lengths), pad, device))
            else:
                k = split_batch(lengths)
                parts = [part for part in (rows[:k], rows[k:]) if part]
                result += [make_batch(ids, part, [[i] for i in range(len(part))], pad, device) for part in parts]
        return result


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
