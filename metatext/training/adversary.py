"""Domain-adversarial training (DANN, Ganin 2016): the encoder learns features that source and target share.

A small classifier, the adversary, learns to distinguish source vectors from target vectors. The encoder is trained to
increase the adversary's loss. No label of the target is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metatext.learners.learner import Learner

ADVERSARY_PREFIX = "adversary."
"""Starts the names of the adversary's parameters in the trainer and in checkpoints."""

_UNITS = 100


class Adversary(torch.nn.Module):
    """Classifies vectors as source or target: a perceptron with one hidden layer of 100 units.

    Args:
        hidden: width of the vectors.
        texts: unlabelled texts of the target.
        seed: seed of the initial weights and of the texts drawn for each episode.
    """

    def __init__(self, hidden: int, texts: Sequence[str], seed: int = 0) -> None:
        super().__init__()
        self.texts, self.seed = list(texts), seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(hidden, _UNITS), torch.nn.ReLU(), torch.nn.Linear(_UNITS, 1)
            )

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy over source vectors (n, hidden) plus that over target vectors (m, hidden), 0-d."""
        sides = ((source, torch.zeros(len(source))), (target, torch.ones(len(target))))
        losses = [
            binary_cross_entropy_with_logits(self.layers(vectors).squeeze(1), side.to(vectors))
            for vectors, side in sides
        ]
        return losses[0] + losses[1]

    @torch.enable_grad()
    def gradients(
        self,
        learner: Learner,
        texts: Sequence[str],
        number: int,
        adversarial_weight: float,
        names: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Gradients that lower the adversary's loss in the adversary and raise it in the encoder.

        Implements equations 13 and 14 of Ganin 2016. The adversary's own step has no factor lambda, as in the paper's
        experiments (section 5.2.2).

        Args:
            learner: its encoder computes the vectors.
            texts: source texts of episode `number`. As many target texts are drawn, or all if there are fewer.
            number: number of the episode. With the seed, it determines the target texts.
            adversarial_weight: factor of the encoder's gradient, lambda.
            names: the trained parameters by name. The adversary's names start with `ADVERSARY_PREFIX`.

        Returns:
            A gradient for each parameter that has one, by name.
        """
        rng = np.random.default_rng([self.seed, number, 1])  # another stream than the episode's [seed, number]
        drawn = rng.choice(len(self.texts), min(len(texts), len(self.texts)), replace=False)
        both = [*texts, *(self.texts[row] for row in drawn)]
        vectors = learner.encode(both, learner.settings.batch_size).to(learner.device).requires_grad_()
        loss = self.loss(vectors[: len(texts)], vectors[len(texts) :])
        own = {name: p for name, p in names.items() if name.startswith(ADVERSARY_PREFIX)}
        towards, *found = torch.autograd.grad(loss * learner.loss_scale, [vectors, *own.values()])
        result = {name: gradient / learner.loss_scale for name, gradient in zip(own, found, strict=True)}
        others = {name: p for name, p in names.items() if name not in own}
        # one batch's graph in memory at a time
        for batch in learner.tokens.batches(both, learner.settings.batch_size, learner.device, learner.packs):
            moved = torch.autograd.grad(
                learner.features(batch), list(others.values()), towards[batch.rows], allow_unused=True
            )
            for name, gradient in zip(others, moved, strict=True):
                if gradient is not None:
                    away = gradient * (-adversarial_weight / learner.loss_scale)
                    result[name] = result[name] + away if name in result else away
        return result


def adversarial_weight(weight: float, step: int, steps: int) -> float:
    """The factor lambda in outer step `step` of `steps`: rises from 0 to `weight` (Ganin 2016, section 5.2.2)."""
    return weight * (2 / (1 + math.exp(-10 * step / steps)) - 1)
