"""Make the small Chinese encoder of this folder: a character-level BERT distilled from a sentence encoder.

    OMP_NUM_THREADS=1 python data/make_encoder.py --data ../shared/data/zh --teacher ../shared/models/zh-e5-small \
        --output data/encoder

The data are JSON lines with a `text` (labels are read only for the evaluation) or plain lines (`*.txt`).
On 2 CPU cores shared with other work, the encoder here took 32 minutes: 15 for the teacher's vectors (two processes),
14 for the training (one thread) and 3 for the table. A README.md in the output folder is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerBase

JUDGED_ON = ("tnews_titles.test", "thucnews_titles.test", "weibo_topics", "weibo_hashtags")
# How many crops are taken of each text of a source (a fraction: of that share of the texts); 1 where not named.
CROPS = {"iflytek": 2.5, "csldcp": 1.5, "reviews": 0.5, "eprstmt": 0.5, "weibo_covid": 0.6, "weibo_emotion": 0.6}
CLAUSES, HELD_OUT, MAX_LENGTH = 15_000, 2_000, 128


def read_file(path: Path) -> tuple[list[str], list[str]]:
    """The texts and the labels of one file; plain lines have no labels."""
    if path.suffix == ".txt":
        texts, labels = path.read_text(encoding="utf-8").splitlines(), []
    else:
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    return [re.sub(r"\s+", " ", text).strip() for text in texts], labels


def crop(text: str, rng: random.Random) -> str:
    """A random piece of a long text: 12 to 48 characters, for one in ten up to 120; a short text as it is."""
    length = rng.randint(48, 120) if rng.random() < 0.1 else rng.randint(12, 48)
    if len(text) <= max(length, 36):
        return text
    start = rng.randint(0, len(text) - length)
    return text[start : start + length]


def build_corpus(folder: Path, seed: int) -> list[str]:
    """Training texts: titles whole, longer texts as random crops, and clauses; no text of the sets judged on."""
    rng = random.Random(seed)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jsonl", ".txt")]
    judged = {text for path in files if path.stem in JUDGED_ON for text in read_file(path)[0]}
    seen, corpus, clauses = set(judged), [], []
    for path in files:
        times = next((value for key, value in CROPS.items() if path.name.startswith(key)), 1.0)
        for text in read_file(path)[0]:
            if len(text) < 4 or text in seen:
                continue
            seen.add(text)
            corpus += [crop(text, rng) for _ in range(int(times) + (rng.random() < times % 1))]
            clauses += [part for part in re.split(r"[，。！？；：,!?;\s…~～]+", text) if 5 <= len(part) <= 20]
    corpus += rng.sample(sorted(set(clauses) - judged), CLAUSES)
    return sorted(set(corpus) - judged)


def words_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The Chinese words and characters in the teacher's vocabulary: a dictionary, used as very short texts."""
    return sorted({piece.strip("▁") for piece in tokenizer.get_vocab() if re.fullmatch("▁?[\u4e00-\u9fff]+", piece)})


def build_tokenizer(corpus: list[str], characters: int, words: int) -> BertTokenizer:
    """A BERT tokenizer: frequent characters (alone or inside a word) and frequent Latin words and numbers."""
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
    always = [mark + sign for sign in printable for mark in ("", "##") if not mark or sign.isalnum()]
    frequent = [token for counts, n in ((single, characters), (whole, words)) for token, _ in counts.most_common(n)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(special + always + frequent))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=MAX_LENGTH)


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def encode_part(teacher: str, texts: list[str]) -> np.ndarray:
    """Mean-pooled teacher vectors of texts that are sorted by length."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModel.from_pretrained(teacher, dtype=torch.float32, add_pooling_layer=False).eval()
    parts = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(texts), 64):
            batch = ["query: " + text for text in texts[start : start + 64]]
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            parts.append(pool(model(**inputs).last_hidden_state.float(), inputs["attention_mask"]))
    return torch.cat(parts).numpy()


def encode_teacher(texts: list[str], args: argparse.Namespace) -> Tensor:
    """Teacher vectors of all texts, by some processes; kept in the cache folder if one is given."""
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    file = args.cache / f"teacher-{key}.npy" if args.cache else None
    if file and file.exists():
        return torch.from_numpy(np.load(file)).float()
    order = np.argsort([len(text) for text in texts], kind="stable")
    shares = [order[part :: args.workers] for part in range(args.workers)]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as processes:
        jobs = [processes.submit(encode_part, str(args.teacher), [texts[i] for i in share]) for share in shares]
        vectors = np.concatenate([job.result() for job in jobs])[np.argsort(np.concatenate(shares))].astype(np.float16)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, vectors)
    return torch.from_numpy(vectors).float()


def target_map(vectors: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and matrix that take teacher vectors to the student's space: centred, main directions, rotated."""
    mean = vectors.mean(0)
    _, directions = torch.linalg.eigh(torch.cov((vectors - mean).T))
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))
    return mean, directions[:, -size:] @ rotation


def make_student(tokenizer: BertTokenizer, args: argparse.Namespace) -> BertModel:
    """The untrained student."""
    torch.manual_seed(args.seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.feed_forward,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="relu",
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def set_embeddings(student: BertModel, tokenizer: BertTokenizer, known: dict[str, Tensor]) -> None:
    """Start each token at the (mapped) teacher's vector of the token as a text; positions near nothing."""
    table = student.embeddings.word_embeddings.weight.data
    for token, index in tokenizer.get_vocab().items():
        table[index] = F.normalize(known[token.removeprefix("##")], dim=0)
    student.embeddings.position_embeddings.weight.data.mul_(0.25)
    student.embeddings.token_type_embeddings.weight.data.zero_()


def embed(model: nn.Module, rows: list[list[int]]) -> Tensor:
    """Mean-pooled vectors after a LayerNorm without weights (centred, all of one length)."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = (torch.arange(width) < torch.tensor([[len(row)] for row in rows])).long()
    hidden = model(input_ids=ids, attention_mask=None if mask.all() else mask).last_hidden_state.float()
    return F.layer_norm(pool(hidden, mask), hidden.shape[-1:])


def vectors_of(model: nn.Module, ids: list[list[int]]) -> Tensor:
    """Vectors of texts, in the order given."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    model.eval()
    with torch.inference_mode():
        parts = [embed(model, [ids[i] for i in order[start : start + 128]]) for start in range(0, len(order), 128)]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


def batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One pass over the texts in batches of about the same length."""
    order, out = rng.permutation(len(lengths)), []
    for start in range(0, len(order), size * 20):
        group = order[start : start + size * 20]
        group = group[np.argsort(lengths[group], kind="stable")]
        out += [group[i : i + size] for i in range(0, len(group), size)]
    return [out[i] for i in rng.permutation(len(out)) if len(out[i]) > 8]


def losses(own: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosine distance to the target, and the divergence of the batch's similarities from the target's."""
    own, target = F.normalize(own, dim=1), F.normalize(target, dim=1)
    n, off = len(own), ~torch.eye(len(own), dtype=torch.bool)
    ours, theirs = (((x @ x.T)[off].view(n, n - 1) / temperature).log_softmax(1) for x in (own, target))
    return 1 - (own * target).sum(1).mean(), F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def train(student: BertModel, ids: list[list[int]], targets: Tensor, cycle: int, args: argparse.Namespace) -> None:
    """AdamW with a warm-up and a cosine for the steps of one cycle."""
    rng, lengths = np.random.default_rng(args.seed + cycle), np.array([len(row) for row in ids])
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    steps, step, start, sums = args.steps[cycle], 0, time.time(), np.zeros(2)
    student.train()
    while step < steps:
        for rows in batches(lengths, args.batch, rng)[: steps - step]:
            rate = min((step + 1) / args.warmup, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)
            optimizer.param_groups[0]["lr"] = args.lr[cycle] * rate
            with torch.autocast("cpu", torch.bfloat16):
                own = embed(student, [ids[i] for i in rows])
            cosine, relation = losses(own, targets[rows], args.temperature)
            (cosine + args.relation * relation).backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            sums += np.array([cosine.item(), relation.item()])
            if step % 20 == 0:
                print(f"cycle {cycle} step {step}: {sums / 20} {time.time() - start:.0f} s", flush=True)
                sums[:] = 0


def nearest_centroid(vectors: Tensor, labels: list[str], draws: int = 100) -> str:
    """Accuracy with 5 labelled texts a class on 1,000 others: mean and half the 95% interval over draws."""
    rng, scores = np.random.default_rng(0), []
    names, codes = np.unique(labels, return_inverse=True)
    for _ in range(draws):
        support = np.stack([rng.permutation(np.flatnonzero(codes == c))[:5] for c in range(len(names))])
        rest = rng.permutation(np.setdiff1d(np.arange(len(codes)), support))[:1000]
        centroids = vectors[torch.from_numpy(support)].mean(1)
        guess = torch.cdist(vectors[torch.from_numpy(rest)], centroids).argmin(1).numpy()
        scores.append((guess == codes[rest]).mean() * 100)
    return f"{np.mean(scores):.1f} ± {1.96 * np.std(scores, ddof=1) / math.sqrt(draws):.1f}"


def evaluate(folder: Path, tokenizer: BertTokenizer, args: argparse.Namespace) -> str:
    """The table of the card: random weights, the saved encoder and the teacher on the sets left out."""
    saved = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    models = {"random weights": make_student(tokenizer, args), "this encoder": saved}
    columns = []
    for name in JUDGED_ON:
        texts, labels = read_file(args.data / f"{name}.jsonl")
        chosen = np.random.default_rng(0).permutation(len(texts))[: args.judge_texts]
        texts, labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
        ids = tokenizer(texts, truncation=True, max_length=MAX_LENGTH).input_ids
        vectors = [vectors_of(model, ids) for model in models.values()] + [encode_teacher(texts, args)]
        scores = [nearest_centroid(F.layer_norm(x, x.shape[1:]), labels) for x in vectors]
        columns.append([f"{name} ({len(set(labels))})", *scores])
    rows = list(zip(["", *models, "teacher"], *columns, strict=True))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def prepare(args: argparse.Namespace) -> tuple[BertTokenizer, BertModel, list[list[int]], Tensor, int]:
    """The tokenizer, the student before training, and the training texts: tokens, targets, how many are no words."""
    corpus, words = build_corpus(args.data, args.seed), words_of(AutoTokenizer.from_pretrained(args.teacher))
    tokenizer = build_tokenizer(corpus, args.characters, args.latin_words)
    pieces = sorted({token.removeprefix("##") for token in tokenizer.get_vocab()} - set(words))
    raw = encode_teacher(corpus + words, args)
    mean, matrix = target_map(raw[: len(corpus)], args.hidden, args.seed)
    targets = F.normalize((raw - mean) @ matrix, dim=1)
    known = dict(zip(words, targets[len(corpus) :], strict=True))
    known |= dict(zip(pieces, (encode_teacher(pieces, args) - mean) @ matrix, strict=True))
    ids = tokenizer(corpus + words, truncation=True, max_length=MAX_LENGTH).input_ids
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) / sum(map(len, ids))
    print(f"{len(corpus)} texts, {len(words)} words, {len(tokenizer)} tokens, {unknown:.2%} unknown", flush=True)
    student = make_student(tokenizer, args)
    set_embeddings(student, tokenizer, known)
    return tokenizer, student, ids, targets, len(corpus)


def save(student: BertModel, tokenizer: BertTokenizer, folder: Path) -> None:
    """Weights in float16; the configuration says float32, which is what they are to be loaded in."""
    shutil.rmtree(folder, ignore_errors=True)
    student.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    student.config.dtype = "float32"
    student.config.save_pretrained(folder)


def main() -> None:
    """Prepare, train, save, evaluate, and put the new folder in its place (a README.md there stays)."""
    args = parse_arguments()
    start, folder = time.time(), args.output.with_name(args.output.name + ".new")
    tokenizer, student, ids, targets, count = prepare(args)
    held_out = np.random.default_rng(5).permutation(count)[:HELD_OUT]
    kept = np.setdiff1d(np.arange(len(ids)), held_out)
    for cycle in range(len(args.steps)):
        train(student, [ids[i] for i in kept], targets[kept], cycle, args)
        cosine, _ = losses(vectors_of(student, [ids[i] for i in held_out]), targets[held_out], args.temperature)
        print(f"distance to the targets of {HELD_OUT} texts held out: {cosine:.3f}", flush=True)
    save(student, tokenizer, folder)
    print(evaluate(folder, tokenizer, args), f"\n{(time.time() - start) / 60:.0f} minutes")
    if (args.output / "README.md").exists():
        shutil.copy(args.output / "README.md", folder)
    shutil.rmtree(args.output, ignore_errors=True)
    folder.rename(args.output)


def parse_arguments() -> argparse.Namespace:
    """The defaults are the settings of the encoder in this folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of JSON lines and plain text files")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the sentence encoder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write (replaced if it exists)")
    parser.add_argument("--cache", type=Path, help="folder that keeps the teacher's vectors between runs")
    parser.add_argument("--workers", type=int, default=2, help="processes that run the teacher")
    parser.add_argument("--steps", type=int, nargs="+", default=[340, 490, 180], help="steps of each training cycle")
    parser.add_argument("--lr", type=float, nargs="+", default=[1.5e-3, 1.5e-3, 1e-3], help="peak rate of each cycle")
    settings: dict[str, float] = {"characters": 4900, "latin-words": 500}
    settings |= {"hidden": 256, "layers": 3, "heads": 4, "feed-forward": 512}
    settings |= {"batch": 256, "warmup": 40, "relation": 0.5, "temperature": 0.1, "judge-texts": 2000, "seed": 0}
    for name, value in settings.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
