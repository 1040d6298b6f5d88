"""Makes the small Chinese encoder in data/encoder: a character-level BERT, distilled from a sentence encoder.

    OMP_NUM_THREADS=1 python data/make_encoder.py --data ../shared/data/zh --teacher ../shared/models/zh-e5-small \
        --output data/encoder

The data folder holds JSON lines files with the fields text and label (*.jsonl), and plain text files with a text a line
(*.txt). Labels are used only for the evaluation. A README.md in the output folder is kept.

On 2 CPU cores shared with other work, the encoder took 32 minutes: 15 for the teacher's vectors (two processes), 14 for
the training (one thread) and 3 for the evaluation.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from encoder_corpus import EVALUATION_SETS, MAX_LENGTH, build_corpus, build_tokenizer, read_file, words_of
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

HELD_OUT = 2_000  # texts that are kept from the training, to measure the distance to the targets


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of hidden states (n, tokens, size) over the tokens that are not padding, (n, size)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def encode_part(teacher: str, texts: list[str]) -> np.ndarray:
    """Returns the teacher's mean-pooled vectors, (texts, teacher size). Texts sorted by length need least padding."""
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
    """Returns the teacher's vectors of all texts, computed in several processes or read from the cache folder."""
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
    """Returns the mean (teacher size,) and the matrix (teacher size, size) of the map to the student's space.

    The map centres the teacher's vectors, projects them on their `size` principal components, and rotates the result.
    """
    mean = vectors.mean(0)
    _, directions = torch.linalg.eigh(torch.cov((vectors - mean).T))
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))
    return mean, directions[:, -size:] @ rotation


def make_student(tokenizer: BertTokenizer, args: argparse.Namespace) -> BertModel:
    """Returns the student with random weights."""
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
    """Sets each token's embedding to the target vector of the token as a text, and scales the position embeddings down.

    Args:
        student: its embeddings are changed in place.
        tokenizer: the student's tokenizer.
        known: target vector of each token, without its ## prefix, (hidden,).
    """
    table = student.embeddings.word_embeddings.weight.data
    for token, index in tokenizer.get_vocab().items():
        table[index] = F.normalize(known[token.removeprefix("##")], dim=0)
    student.embeddings.position_embeddings.weight.data.mul_(0.25)
    student.embeddings.token_type_embeddings.weight.data.zero_()


def embed(model: nn.Module, rows: list[list[int]]) -> Tensor:
    """Returns mean-pooled vectors of token id lists, (rows, hidden), after a LayerNorm without weights."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = (torch.arange(width) < torch.tensor([[len(row)] for row in rows])).long()
    hidden = model(input_ids=ids, attention_mask=None if mask.all() else mask).last_hidden_state.float()
    return F.layer_norm(pool(hidden, mask), hidden.shape[-1:])


def vectors_of(model: nn.Module, ids: list[list[int]]) -> Tensor:
    """Returns the vectors of tokenised texts, (texts, hidden), in the order given."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    model.eval()
    with torch.inference_mode():
        parts = [embed(model, [ids[i] for i in order[start : start + 128]]) for start in range(0, len(order), 128)]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


def batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the text numbers of each batch of one epoch. The texts of a batch have similar lengths."""
    order, result = rng.permutation(len(lengths)), []
    for start in range(0, len(order), size * 20):
        group = order[start : start + size * 20]
        group = group[np.argsort(lengths[group], kind="stable")]
        result += [group[i : i + size] for i in range(0, len(group), size)]
    return [result[i] for i in rng.permutation(len(result)) if len(result[i]) > 8]


def losses(own: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Returns the two losses of a batch, both 0-d: the cosine distance and the relation loss.

    The relation loss is the KL divergence between the softmax of the similarities within the batch, of the student's
    vectors and of the targets.

    Args:
        own: the student's vectors, (n, hidden).
        target: the target vectors, (n, hidden).
        temperature: temperature of the softmax.
    """
    own, target = F.normalize(own, dim=1), F.normalize(target, dim=1)
    n, off = len(own), ~torch.eye(len(own), dtype=torch.bool)
    ours, theirs = (((x @ x.T)[off].view(n, n - 1) / temperature).log_softmax(1) for x in (own, target))
    return 1 - (own * target).sum(1).mean(), F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def train(student: BertModel, ids: list[list[int]], targets: Tensor, cycle: int, args: argparse.Namespace) -> None:
    """Trains the student for one cycle: AdamW, with linear warm-up and a cosine schedule."""
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
    """Returns the nearest-centroid accuracy in per cent, as "mean ± half the width of its 95% interval" over draws.

    Each draw takes 5 labelled texts per class and evaluates on 1,000 others.
    """
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
    """Returns a Markdown table of random weights, the saved encoder and the teacher on the evaluation sets."""
    saved = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    models = {"random weights": make_student(tokenizer, args), "this encoder": saved}
    columns = []
    for name in EVALUATION_SETS:
        texts, labels = read_file(args.data / f"{name}.jsonl")
        chosen = np.random.default_rng(0).permutation(len(texts))[: args.evaluation_texts]
        texts, labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
        ids = tokenizer(texts, truncation=True, max_length=MAX_LENGTH).input_ids
        vectors = [vectors_of(model, ids) for model in models.values()] + [encode_teacher(texts, args)]
        scores = [nearest_centroid(F.layer_norm(x, x.shape[1:]), labels) for x in vectors]
        columns.append([f"{name} ({len(set(labels))})", *scores])
    rows = list(zip(["", *models, "teacher"], *columns, strict=True))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def prepare(args: argparse.Namespace) -> tuple[BertTokenizer, BertModel, list[list[int]], Tensor, int]:
    """Prepares the training.

    Returns:
        The student's tokenizer, the untrained student, the token ids of the training texts, their target vectors
        (texts, hidden), and the number of training texts that come from the corpus. These are first; words follow.
    """
    corpus, words = build_corpus(args.data, args.seed), words_of(AutoTokenizer.from_pretrained(args.teacher))
    tokenizer = build_tokenizer(corpus, args.characters, args.latin_words)
    tokens = sorted({token.removeprefix("##") for token in tokenizer.get_vocab()} - set(words))
    raw = encode_teacher(corpus + words, args)
    mean, matrix = target_map(raw[: len(corpus)], args.hidden, args.seed)
    targets = F.normalize((raw - mean) @ matrix, dim=1)
    known = dict(zip(words, targets[len(corpus) :], strict=True))
    known |= dict(zip(tokens, (encode_teacher(tokens, args) - mean) @ matrix, strict=True))
    ids = tokenizer(corpus + words, truncation=True, max_length=MAX_LENGTH).input_ids
    unknown = sum(row.count(tokenizer.unk_token_id) for row in ids) / sum(map(len, ids))
    print(f"{len(corpus)} texts, {len(words)} words, {len(tokenizer)} tokens, {unknown:.2%} unknown", flush=True)
    student = make_student(tokenizer, args)
    set_embeddings(student, tokenizer, known)
    return tokenizer, student, ids, targets, len(corpus)


def save(student: BertModel, tokenizer: BertTokenizer, folder: Path) -> None:
    """Saves the student with weights in float16. The configuration says float32, so that they are loaded as float32."""
    shutil.rmtree(folder, ignore_errors=True)
    student.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    student.config.dtype = "float32"
    student.config.save_pretrained(folder)


def main() -> None:
    """Prepares, trains, saves and evaluates the encoder, then replaces the output folder. Its README.md is kept."""
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
    """Parses the command line. The defaults are the settings of the encoder in data/encoder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of JSON lines files and plain text files")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher, a sentence encoder")
    parser.add_argument("--output", type=Path, required=True, help="output folder; it is replaced if it exists")
    parser.add_argument("--cache", type=Path, help="folder that keeps the teacher's vectors between runs")
    parser.add_argument("--workers", type=int, default=2, help="processes that run the teacher (default 2)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[340, 490, 180],
        help="steps of each training cycle (default 340 490 180)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        nargs="+",
        default=[1.5e-3, 1.5e-3, 1e-3],
        help="peak learning rate of each cycle (default 0.0015 0.0015 0.001)",
    )
    settings: dict[str, float] = {"characters": 4900, "latin-words": 500}
    settings |= {"hidden": 256, "layers": 3, "heads": 4, "feed-forward": 512}
    settings |= {"batch": 256, "warmup": 40, "relation": 0.5, "temperature": 0.1, "evaluation-texts": 2000, "seed": 0}
    for name, value in settings.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
