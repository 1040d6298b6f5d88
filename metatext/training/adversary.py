"""Domain-adversarial training (DANN, Ganin 2016): the encoder learns to give no sign of where a text comes from.

A small classifier learns to tell source texts from the target's by their vectors, and the encoder is moved against it:
the sources' classes are then told apart by what both sides have in common. No label of the target is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metatext.learners.learner import Learner

ADVERSARY_PREFIX = "adversary."  # of its parameters' names in the trainer, and in checkpoints
_UNITS = 100


class Adversary(torch.nn.Module):
    """Tells source vectors from target vectors: a perceptron with one hidden layer of 100 units.

    Args:
        hidden: width of the vectors.
        texts: unlabelled texts of the target.
        seed: of its first weights, and of the texts that it sees with each episode.
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
        """Mean cross entropy of vectors (n, hidden) of the sources, and that of (m, hidden) of the target, added."""
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
        """What moves the adversary towards the answer and the encoder away from it (Ganin 2016, equations 13 and 14).

        The adversary's own step does not have the factor lambda, as in the paper's experiments (section 5.2.2).

        Args:
            learner: whose encoder gives the vectors.
            texts: of the sources, from episode `number`; as many of the target's are drawn, or all.
            number: of the episode, which with the seed says which texts of the target are drawn.
            strength: of the encoder's part, lambda.
            names: the parameters that move, by name; the adversary's have `ADVERSARY_PREFIX`.
        """
        rng = np.random.default_rng([self.seed, number, 1])  # the episode's own is [seed, number]
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
    """Lambda in outer step `step` of `steps`: from 0 up to `weight` (Ganin 2016, section 5.2.2)."""
    return weight * (2 / (1 + math.exp(-10 * step / steps)) - 1)
