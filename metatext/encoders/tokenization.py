"""Tokenises texts, each of them once, and makes batches of their token ids."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import torch

from metatext.encoders.packing import Batch, make_batch, pack_lines, split_batch
from metatext.errors import InputError

_MIN_LETTERS_PER_TOKEN = 1.5  # words with shorter tokens on average are spelled, and the tokens carry no meaning


def load_tokenizer(folder: str | Path, text_prefix: str = "") -> Any:
    """Loads the tokenizer of `folder`, and makes it add `text_prefix` to every text.

    The prefix becomes part of the tokenizer's file, so plain transformers applies it too. The maximum length of a
    sentence encoder (`max_seq_length`) becomes that of its tokenizer, as sentence-transformers does.

    Raises:
        InputError: there is no tokenizer, or a prefix is given but the tokenizer has no fast implementation.
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = {path.name for path in Path(folder).iterdir()}
    if not files & {"tokenizer.json", "vocab.txt", "vocab.json"} and not any(name.endswith(".model") for name in files):
        # transformers 5 would build a tokenizer that knows special tokens only
        raise InputError(f"{folder} has no tokenizer: no tokenizer.json or vocabulary file is in it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} has no tokenizer that transformers can load: {_first_line(error)}") from error
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = min(tokenizer.model_max_length, _sentence_length(folder))
    if not text_prefix:
        return tokenizer
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer of {folder} has no fast implementation, which text_prefix needs")
    backend = tokenizer.backend_tokenizer
    parts = [normalizers.Prepend(text_prefix), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(parts)
    # The generic class loads tokenizer.json unchanged. A model's own class would rebuild the normaliser, and lose the
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
    """Tokenises each text once, and remembers its token ids.

    Attributes:
        tokenizer: a transformers tokenizer.
        max_length: longest text in tokens; longer texts are cut.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._ids: dict[str, list[int]] = {}
        self._others: dict[int, TokenCache] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenCache:
        return TokenCache(self.tokenizer, self.max_length)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, with special tokens, cut at `max_length`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            encoded = self.tokenizer(new, truncation=True, max_length=self.max_length)
            self._ids.update(zip(new, encoded["input_ids"], strict=True))
        return [self._ids[text] for text in texts]

    def at(self, max_length: int) -> TokenCache:
        """Returns a cache that cuts at `max_length`; it is made once.

        It has a tokenizer of its own: what is saved with it says where texts are cut, and this one stays as it is.
        """
        if max_length == self.max_length:
            return self
        if max_length not in self._others:
            tokenizer = copy.deepcopy(self.tokenizer)
            tokenizer.model_max_length = max_length
            self._others[max_length] = TokenCache(tokenizer, max_length)
        return self._others[max_length]

    def count_cut(self, texts: Sequence[str]) -> int:
        """Returns how many of the texts are longer than `max_length` tokens."""
        full = [text for text, ids in zip(texts, self.ids(texts), strict=True) if len(ids) >= self.max_length]
        # The tokenizer remembers the options of its last call and is saved with them, so another one counts.
        return sum(len(ids) > self.max_length for ids in self.at(self.max_length + 1).ids(full)) if full else 0

    def reads(self, name: str) -> bool:
        """Returns whether the vocabulary covers a name with words or meaningful parts of words.

        The vocabulary of another language fails in one of two ways. Half of the tokens or more are unknown, or the
        tokens spell the name letter by letter. A digit or a wide (East Asian) character may be a token by itself.
        """
        words = "".join(c if c.isalnum() else " " for c in name)
        parts = self._parts(words)[len(self._parts(" ")) :]  # without the tokens of the text prefix
        most = sum(
            1 / _MIN_LETTERS_PER_TOKEN if c.isalpha() and east_asian_width(c) not in "WF" else 1
            for c in words
            if c != " "
        )
        return 2 * parts.count(self.tokenizer.unk_token) < len(parts) <= math.ceil(most)

    def readable(self, names: Sequence[str]) -> list[str]:
        """Returns the names without the lines that the vocabulary does not cover; a name is empty if all are."""
        return ["\n".join(line for line in name.splitlines() if self.reads(line)) for name in names]

    def _parts(self, text: str) -> list[str]:
        """Returns the tokens of a text without the marks of word boundaries."""
        # Truncated as in `ids`: the tokenizer remembers the options of its last call, and is saved with them.
        call = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.max_length)
        tokens = self.tokenizer.convert_ids_to_tokens(call["input_ids"])
        return [part for token in tokens if (part := token.lstrip("▁Ġ#"))]

    def batches(self, texts: Sequence[str], size: int, device: torch.device, packed: bool = False) -> list[Batch]:
        """Puts texts into batches of similar length.

        Args:
            texts: any number of texts.
            size: maximum number of texts in a batch.
            device: device of the batches.
            packed: let short texts share a line if that saves padding. Otherwise a batch may be split in two.
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


def _sentence_length(folder: str | Path) -> float:
    """Returns the maximum length in tokens that a folder of sentence-transformers states, otherwise infinity."""
    path = Path(folder) / "sentence_bert_config.json"
    if not path.exists():
        return math.inf
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))["max_seq_length"]
    except (ValueError, KeyError, TypeError):
        return math.inf
    return stated if isinstance(stated, int) and stated > 0 else math.inf


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
