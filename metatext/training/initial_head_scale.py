"""Chooses the initial scale of a prototype head."""

from __future__ import annotations

import logging
import math
from contextlib import closing

import torch
from torch.nn.functional import cross_entropy

from metatext.data.episode_sampler import EpisodeSampler
from metatext.learners.episode_task import EpisodeTask
from metatext.learners.heads import PrototypeHead
from metatext.learners.learner import Learner

logger = logging.getLogger(__name__)


@torch.no_grad()
def calibrate_scale(learner: Learner, sampler: EpisodeSampler, episodes: int = 4) -> None:
    """Sets a prototype head's scale to the power of two with the lowest query loss before any inner step.

    Distances between texts differ a hundredfold between encoders, and meta-training changes the scale slowly.

    Args:
        learner: its head is changed in place.
        sampler: the loss is that of the first `episodes` episodes.
        episodes: number of episodes.
    """
    assert isinstance(learner.head, PrototypeHead)
    losses: dict[float, float] = {}
    for number in range(episodes):
        episode = sampler[number]
        query = learner.batches(episode.query)
        with closing(EpisodeTask(learner, episode.support, episode.classes)) as task:
            centroids = task.centroids
        features = [(learner.features(batch), labels) for batch, labels in query.batches]
        for exponent in range(1, 10):
            learner.head.log_scale.fill_(math.log(2.0**exponent))
            layer = learner.head.start(episode.classes, centroids)
            loss = sum(float(cross_entropy(layer.logits(x), y, reduction="sum")) for x, y in features)
            losses[2.0**exponent] = losses.get(2.0**exponent, 0.0) + loss
    best = min(losses, key=lambda scale: losses[scale])
    learner.head.log_scale.fill_(math.log(best))
    logger.info("the prototype head starts with scale %g", best)
