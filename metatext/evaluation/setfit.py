"""The SetFit baseline (Tunstall 2022): contrastive training on pairs of texts, then logistic regression.

The defaults are those of the package setfit 1.2: 16 pairs per step, one pass over all pairs, oversampling of the rarer
kind of pair, AdamW with learning rate 2e-5 and no weight decay. There is no dropout, as in all fits of metatext. The
number of pairs grows with the square of the number of texts: 13 classes of 10 texts make 15,600 pairs and 975 steps.
`max_steps` bounds the steps, as in the package.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss
from transformers import get_linear_schedule_with_warmup

from metatext.evaluation.baselines import Fit, Predict, logistic_regression, most_probable
from metatext.learners.learner import Learner


def contrastive_pairs(labels: Sequence[str], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes all pairs of rows, in random order, with as many positive pairs (same label) as negative ones.

    A row also makes a pair with itself. The rarer kind of pair is repeated.

    Returns:
        Row pairs, int64 (pairs, 2), and their targets, float (pairs,): 1 for the same label, else 0.

    Example:
        >>> pairs, same = contrastive_pairs(["a", "a", "b"], torch.Generator().manual_seed(0))
        >>> pairs.shape, same.sum()  # 4 positive pairs; 2 negative pairs, each of them twice
        (torch.Size([8, 2]), tensor(4.))
    """
    names = sorted(set(labels))
    label = torch.tensor([names.index(name) for name in labels])
    pairs = torch.triu_indices(len(label), len(label)).T
    same = label[pairs[:, 0]] == label[pairs[:, 1]]
    kinds = [pairs[same], pairs[~same]]
    size = max(map(len, kinds))
    rows = [kind[torch.randperm(len(kind), generator=generator)][torch.arange(size) % len(kind)] for kind in kinds]
    order = torch.randperm(2 * size, generator=generator)
    return torch.cat(rows)[order], torch.tensor([1.0, 0.0]).repeat_interleave(size)[order]


def pair_loss(model: Learner, texts: Sequence[str], pairs: Tensor, same: Tensor) -> Tensor:
    """Mean squared error of the cosines of pairs of texts, whose targets are `same` (1 for the same label, else 0)."""
    # a text in several pairs is encoded once
    rows, places = pairs.unique(return_inverse=True)
    batches = model.tokens.batches([texts[row] for row in rows.tolist()], len(rows), model.device)
    order = torch.cat([batch.rows for batch in batches]).argsort()
    vectors = torch.cat([model.features(batch) for batch in batches])[order][places.to(model.device)]
    cosines = cosine_similarity(vectors[:, 0], vectors[:, 1])  # (pairs,)
    return mse_loss(cosines, same.to(cosines))


def train_on_pairs(
    model: Learner,
    texts: Sequence[str],
    labels: Sequence[str],
    max_steps: int | None = None,
    batch_size: int = 16,
    lr: float = 2e-5,
    seed: int = 0,
) -> None:
    """Trains the encoder of `model` in place on all pairs of the texts, once each, or on a random part of them.

    The schedule is that of the package: warm-up over 10% of the steps, then linear decay. The first step has learning
    rate 0, so 16 or fewer pairs train nothing.

    Args:
        model: a learner, of which only the encoder is used.
        texts: labelled texts.
        labels: the label of each text.
        max_steps: maximum number of steps; None is one pass over all pairs.
        batch_size: pairs per step.
        lr: peak learning rate.
        seed: of the order of the pairs.
    """
    pairs, same = contrastive_pairs(labels, torch.Generator().manual_seed(seed))
    steps = min(math.ceil(len(pairs) / batch_size), max_steps or len(pairs))
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=lr, weight_decay=0.0, fused=True)
    warmup_steps = math.ceil(0.1 * steps)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup_steps, steps)
    # Tensor.split and Tensor.backward are untyped in torch, as is the schedule in transformers
    batches = zip(pairs.split(batch_size), same.split(batch_size), strict=True)
    for batch_pairs, batch_same in islice(batches, steps):
        pair_loss(model, texts, batch_pairs, batch_same).backward()
        torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def setfit(encoder: Learner, max_steps: int | None = None) -> Fit:
    """The SetFit baseline from a pretrained encoder, which is not changed; see `train_on_pairs`."""

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        model = copy.deepcopy(encoder)
        train_on_pairs(model, texts, labels, max_steps)
        probe = logistic_regression(model.encode(texts).numpy(), labels)
        return lambda queries: most_probable(
            probe.classes_.tolist(), probe.predict_proba(model.encode(queries).numpy())
        )

    return fit
