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
"""Prefix of the names of the adversary's parameters, in the trainer and in checkpoints."""

_HIDDEN_UNITS = 100


class Adversary(torch.nn.Module):
    """A perceptron with one hidden layer of 100 units that classifies vectors as source or target.

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
                torch.nn.Linear(hidden, _HIDDEN_UNITS), torch.nn.ReLU(), torch.nn.Linear(_HIDDEN_UNITS, 1)
            )

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Returns the mean cross entropy over source vectors (n, hidden) plus that over target vectors (m, hidden).

        The loss is a 0-d tensor in nats. Both sides have equal weight, whatever n and m are.
        """
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
        parameters: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Returns gradients that lower the adversary's loss in the adversary and raise it in the encoder.

        Implements equations 13 and 14 of Ganin 2016. The adversary's own step has no factor lambda, as in the paper's
        experiments (section 5.2.2).

        Args:
            learner: its encoder computes the vectors.
            texts: source texts of episode `number`. As many target texts are drawn, or all if there are fewer.
            number: number of the episode. With the seed, it determines the target texts.
            adversarial_weight: factor of the encoder's gradient, lambda.
            parameters: the trained parameters by name. The adversary's names start with `ADVERSARY_PREFIX`.

        Returns:
            A gradient for each parameter that has one, by name.
        """
        rng = np.random.default_rng([self.seed, number, 1])  # the episode's own stream is [seed, number]
        drawn = rng.choice(len(self.texts), min(len(texts), len(self.texts)), replace=False)
        both = [*texts, *(self.texts[row] for row in drawn)]
        vectors = learner.encode(both, learner.settings.batch_size).to(learner.device).requires_grad_()
        loss = self.loss(vectors[: len(texts)], vectors[len(texts) :])
        of_adversary = {name: p for name, p in parameters.items() if name.startswith(ADVERSARY_PREFIX)}
        vector_gradient, *gradients = torch.autograd.grad(loss * learner.loss_scale, [vectors, *of_adversary.values()])
        result = {name: gradient / learner.loss_scale for name, gradient in zip(of_adversary, gradients, strict=True)}
        of_learner = {name: p for name, p in parameters.items() if name not in of_adversary}
        # The vectors are computed again, so that memory holds the graph of one batch at a time.
        for batch in learner.tokens.batches(both, learner.settings.batch_size, learner.device, learner.packs):
            of_batch = torch.autograd.grad(
                learner.features(batch), list(of_learner.values()), vector_gradient[batch.rows], allow_unused=True
            )
            for name, gradient in zip(of_learner, of_batch, strict=True):
                if gradient is not None:
                    reversed_gradient = gradient * (-adversarial_weight / learner.loss_scale)
                    result[name] = result[name] + reversed_gradient if name in result else reversed_gradient
        return result


def adversarial_weight(weight: float, step: int, steps: int) -> float:
    """Returns the factor lambda in outer step `step` of `steps`, rising from 0 to `weight` (Ganin 2016, section 5.2.2).

    Example:
        >>> [round(adversarial_weight(0.3, step, steps=100), 3) for step in (0, 10, 50)]
        [0.0, 0.139, 0.296]
    """
    return weight * (2 / (1 + math.exp(-10 * step / steps)) - 1)
