"""Training texts and tokenizer of the small Chinese encoder, for make_encoder.py."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from transformers import BertTokenizer, PreTrainedTokenizerBase

# Data sets of the evaluation. Their texts are left out of the training.
EVALUATION_SETS = ("tnews_titles.test", "thucnews_titles.test", "weibo_topics", "weibo_hashtags")
# Mean number of random crops per text, by the beginning of the file name; 1 for other files.
CROPS = {"iflytek": 2.5, "csldcp": 1.5, "reviews": 0.5, "eprstmt": 0.5, "weibo_covid": 0.6, "weibo_emotion": 0.6}
CLAUSES = 15_000  # number of clauses among the training texts
MAX_LENGTH = 128  # tokens per text


def read_file(path: Path) -> tuple[list[str], list[str]]:
    """Returns the texts and the labels of a file. A plain text file has no labels."""
    if path.suffix == ".txt":
        texts, labels = path.read_text(encoding="utf-8").splitlines(), []
    else:
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    return [re.sub(r"\s+", " ", text).strip() for text in texts], labels


def crop(text: str, rng: random.Random) -> str:
    """Returns a random piece of a long text, or a short text as it is.

    A piece has 12 to 48 characters; one piece in ten has 48 to 120.
    """
    length = rng.randint(48, 120) if rng.random() < 0.1 else rng.randint(12, 48)
    if len(text) <= max(length, 36):
        return text
    start = rng.randint(0, len(text) - length)
    return text[start : start + length]


def build_corpus(folder: Path, seed: int) -> list[str]:
    """Returns the training texts: short texts, random crops of longer texts, and clauses.

    Texts of the evaluation sets are left out.
    """
    rng = random.Random(seed)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jsonl", ".txt")]
    excluded = {text for path in files if path.stem in EVALUATION_SETS for text in read_file(path)[0]}
    seen, corpus, clauses = set(excluded), [], []
    for path in files:
        crops = next((value for key, value in CROPS.items() if path.name.startswith(key)), 1.0)
        for text in read_file(path)[0]:
            if len(text) < 4 or text in seen:
                continue
            seen.add(text)
            corpus += [crop(text, rng) for _ in range(int(crops) + (rng.random() < crops % 1))]
            clauses += [part for part in re.split(r"[，。！？；：,!?;\s…~～]+", text) if 5 <= len(part) <= 20]
    corpus += rng.sample(sorted(set(clauses) - excluded), CLAUSES)
    return sorted(set(corpus) - excluded)


def words_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the Chinese words and characters of the teacher's vocabulary, which serve as very short texts."""
    return sorted({piece.strip("▁") for piece in tokenizer.get_vocab() if re.fullmatch("▁?[\u4e00-\u9fff]+", piece)})


def build_tokenizer(corpus: list[str], characters: int, words: int) -> BertTokenizer:
    """Returns a BERT tokenizer with the most frequent characters, Latin words and numbers of the corpus.

    Args:
        corpus: the training texts.
        characters: number of characters; a character at the start of a word and inside a word count as two.
        words: number of words of at least two characters.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = BertTokenizer(vocab={token: i for i, token in enumerate(special)}).backend_tokenizer
    single: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for text in corpus:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            whole[word] += len(word) > 1
            single[word[0]] += 1
            single.update("##" + character for character in word[1:])
    printable = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    required = [mark + sign for sign in printable for mark in ("", "##") if not mark or sign.isalnum()]
    frequent = [token for counts, n in ((single, characters), (whole, words)) for token, _ in counts.most_common(n)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(special + required + frequent))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=MAX_LENGTH)
