"""Meta-gradient of a learner on an episode of texts, and inner-loop adaptation to a support."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from metatext.core.imaml import implicit_gradient
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.maml import sweep
from metatext.core.reptile import reptile_gradient
from metatext.core.task import Step
from metatext.data.episodes import Episode, Examples
from metatext.learners.episode_task import EpisodeTask
from metatext.learners.heads import LinearLayer
from metatext.learners.learner import Learner


class EpisodeResult(NamedTuple):
    """Query performance after adaptation, and meta-gradient of an episode."""

    loss: Tensor
    """Mean query loss in nats, 0-d."""
    correct: Tensor
    """Number of correct query predictions, 0-d int64."""
    gradients: dict[str, Tensor]
    """Meta-gradient by parameter name."""


def meta_gradient(learner: Learner, episode: Episode) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the query loss after adaptation and its gradient with respect to the initialisation.

    The gradient is exact if `second_order_steps` equals `inner_steps` in the settings of the learner. With fewer steps
    it is truncated or first-order MAML.

    Args:
        learner: an initialisation. It is not changed.
        episode: support set to adapt to, and query set for the loss.

    Returns:
        The mean query loss (0-d, nats), and name -> gradient for all `learner.named_parameters()` that require one.
    """
    result = run_episode(learner, episode)
    return result.loss, result.gradients


def outer_loss(learner: Learner, episode: Episode, query_weights: Sequence[float] | None = None) -> Tensor:
    """Returns the query loss after adaptation, 0-d, without graph.

    `meta_gradient` is its gradient, except with Reptile.
    """
    return evaluate_episode(learner, episode, query_weights)[0]


@torch.no_grad()
def run_episode(
    learner: Learner,
    episode: Episode,
    query_weights: Sequence[float] | None = None,
    second_order_steps: int | None = None,
) -> EpisodeResult:
    """Computes the meta-gradient of an episode with the algorithm of the learner.

    Args:
        learner: an initialisation. It is not changed.
        episode: a support and a query set. Reptile has no query loss, so it adapts to the texts of both.
        query_weights: weight of the query loss after each inner step; by default all weight is on the last (maml only,
            see `core.maml.sweep`).
        second_order_steps: replaces the value in the settings of the learner.

    Raises:
        ValueError: the number of `query_weights` differs from that of the inner steps.
    """
    settings, support = learner.settings, episode.support
    if settings.algorithm == "reptile":
        support = Examples(support.texts + episode.query.texts, support.labels + episode.query.labels)
    order = settings.second_order_steps if second_order_steps is None else second_order_steps
    with closing(EpisodeTask(learner, support, episode.classes, episode.query, None, order)) as episode_task:
        task, rates = episode_task.task, learner.rates(rows=episode_task.updated_rows)
        adam = settings.inner_optimizer == "adam"
        if settings.algorithm == "reptile":
            result = reptile_gradient(task, rates, adam=adam)
        elif settings.algorithm == "imaml":
            result = implicit_gradient(task, rates, settings.proximal, hvp=settings.hvp)
        else:
            result = sweep(
                task,
                rates,
                order,
                hvp=settings.hvp,
                kept_graphs=settings.kept_graphs,
                query_weights=query_weights,
                rate_gradients=settings.rates_learned,
                adam=adam,
            )
        correct = torch.stack(episode_task.correct[: len(task.query)]).sum()  # those at theta_K come first
        gradients = episode_task.pull_back(result.gradients)
        if settings.rates_learned:
            gradients["log_inner_lr"] = learner.inner_rates.gradient(
                learner.log_inner_lr, result.rate_gradients, episode_task.updated_rows
            )
    return EpisodeResult(result.loss, correct, gradients)


@torch.no_grad()
def evaluate_episode(
    learner: Learner, episode: Episode, query_weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Adapts to the support and evaluates on the query set, without a meta-gradient.

    Args:
        learner: an initialisation. It is not changed.
        episode: a support and a query set.
        query_weights: weight of the query loss after each inner step; by default all weight is on the last.

    Returns:
        The mean query loss (0-d, nats; the weighted sum with `query_weights`), and the number of correct query
        predictions after the last step that has a weight (0-d int64).
    """
    loss = learner.log_inner_lr.new_zeros(())
    with (
        closing(EpisodeTask(learner, episode.support, episode.classes, episode.query)) as episode_task,
        in_scratch_memory(episode_task.task.moving) as theta_0,
    ):
        steps = _inner_loop_of(learner, episode_task, theta_0)
        for weight, _ in zip(query_weights or [], steps, strict=query_weights is not None):
            if weight:
                episode_task.correct.clear()
                loss += weight * sum(part() for part in episode_task.task.query)
        if query_weights is None:
            deque(steps, maxlen=0)
            loss += sum(part() for part in episode_task.task.query)
        return loss, torch.stack(episode_task.correct).sum()


def _inner_loop_of(
    learner: Learner, episode_task: EpisodeTask, theta_0: list[Tensor], steps: int | None = None
) -> Iterator[Step]:
    """Returns the inner loop with the settings of the learner; `theta_0` holds the initial values for iMAML."""
    settings = learner.settings
    return inner_loop(
        episode_task.task,
        learner.rates(steps, episode_task.updated_rows),
        adam=settings.inner_optimizer == "adam",
        proximal=settings.proximal,
        theta_0=theta_0 if settings.algorithm == "imaml" else None,
    )


@contextmanager
def adapted(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    steps: int | None = None,
    layer: LinearLayer | None = None,
) -> Iterator[LinearLayer]:
    """Adapts the encoder to a support with the inner loop within the block, and yields the adapted linear layer.

    Args:
        learner: an initialisation. It is restored when the block ends, also after an exception.
        support: labelled texts, any number per class.
        classes: names of the classes that the labels index.
        steps: number of inner steps, by default that of the settings. Further steps use the rates of the last one. With
            0 steps the layer is the initial one.
        layer: initial linear layer; by default the head makes it.

    Yields:
        The linear layer of the task. It is valid only within the block.
    """
    with (
        closing(EpisodeTask(learner, support, classes, layer=layer)) as episode_task,
        in_scratch_memory(episode_task.task.moving) as theta_0,
    ):
        with torch.no_grad():
            deque(_inner_loop_of(learner, episode_task, theta_0, steps), maxlen=0)
        with episode_task.table_in_place():
            yield LinearLayer(episode_task.layer.weight.detach(), episode_task.layer.bias.detach())
