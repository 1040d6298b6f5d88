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

from metatext.learner import Learner

PREFIX = "adversary."  # of its parameters' names in the trainer, and in checkpoints
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(hidden, _UNITS), torch.nn.ReLU(), torch.nn.Linear(_UNITS, 1)
            )

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross entropy of vectors (n, hidden) of the sources and (m, hidden) of the target."""
        logits = self.layers(torch.cat([source, target])).squeeze(1)
        return binary_cross_entropy_with_logits(logits, (torch.arange(len(logits)) >= len(source)).to(logits))

    def gradients(
        self, learner: Learner, texts: Sequence[str], number: int, strength: float, names: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What moves the adversary towards the answer and the encoder away from it (Ganin 2016, equations 13 to 15).

        Args:
            learner: whose encoder gives the vectors.
            texts: of the sources, from episode `number`; as many of the target's are drawn.
            number: of the episode, which with the seed says which texts of the target are drawn.
            strength: of the encoder's part, lambda.
            names: the parameters that move, by name; the adversary's have `PREFIX`.
        """
        rng = np.random.default_rng([self.seed, number])
        drawn = rng.choice(len(self.texts), min(len(texts), len(self.texts)), replace=False)
        size = learner.settings.batch_size
        source, target = learner.vectors(texts, size), learner.vectors([self.texts[row] for row in drawn], size)
        own = next(self.parameters())
        scaled = self.loss(source.to(own), target.to(own)) * learner.loss_scale
        found = dict(zip(names, torch.autograd.grad(scaled, list(names.values()), allow_unused=True), strict=True))
        return {
            name: gradient * ((1.0 if name.startswith(PREFIX) else -strength) / learner.loss_scale)
            for name, gradient in found.items()
            if gradient is not None
        }


def strength(weight: float, step: int, steps: int) -> float:
    """Lambda in outer step `step` of `steps`: from 0 up to `weight` (Ganin 2016, section 5.2.2)."""
    return weight * (2 / (1 + math.exp(-10 * step / steps)) - 1)
