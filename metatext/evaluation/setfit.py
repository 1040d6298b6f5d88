"""SetFit (Tunstall 2022): an encoder tuned on pairs of texts, then logistic regression on its vectors.

The defaults here are those of the package setfit 1.2: 16 pairs a step, one pass over all pairs, the rarer kind repeated
until there are as many of it (oversampling), AdamW at 2e-5 without weight decay. There is no dropout, as in all fits of
metatext. The pairs grow with the square of the labels: 13 classes of 10 texts are 15,600 pairs, 975 steps. The steps
can be bounded, as by the package's `max_steps`.
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
    """Pairs of rows, int64 (pairs, 2), in random order, and whether the two have the same label, float (pairs,).

    Every pair stands in them, a row with itself too, and as many are of the same label as are not.
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
    """Mean squared distance of the cosines of two texts' vectors from 1, for the same label, or 0."""
    rows, places = pairs.unique(return_inverse=True)  # a text that stands in several pairs is encoded once
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
    """Trains the encoder on all pairs of the texts once, or on as many as `max_steps` take, drawn at random.

    With the schedule of the package: the first step has rate 0, so that 16 pairs or fewer train nothing.
    """
    pairs, same = contrastive_pairs(labels, torch.Generator().manual_seed(seed))
    steps = min(math.ceil(len(pairs) / batch_size), max_steps or len(pairs))
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=lr, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * steps), steps)
    for chosen, wanted in islice(zip(pairs.split(batch_size), same.split(batch_size), strict=True), steps):
        pair_loss(model, texts, chosen, wanted).backward()
        torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def setfit(encoder: Learner, max_steps: int | None = None) -> Fit:
    """SetFit from a pretrained encoder, which is left as it is."""

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        model = copy.deepcopy(encoder)
        train_on_pairs(model, texts, labels, max_steps)
        probe = logistic_regression(model.encode(texts).numpy(), labels)
        return lambda queries: most_probable(
            probe.classes_.tolist(), probe.predict_proba(model.encode(queries).numpy())
        )

    return fit
