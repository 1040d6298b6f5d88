"""The meta-gradient of an episode of texts, and the learner adapted to a support."""

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
    """Query loss after adaptation (0-d), correct query predictions (0-d int64), gradients by parameter name."""

    loss: Tensor
    correct: Tensor
    gradients: dict[str, Tensor]


def meta_gradient(learner: Learner, episode: Episode) -> tuple[Tensor, dict[str, Tensor]]:
    """Query loss after adaptation, and its gradient with respect to the initialisation.

    Exact where the learner's `second_order_steps` equals its `inner_steps`; the learner is left as it was.

    Returns:
        The loss (0-d), and name -> gradient for all `learner.named_parameters()` that require one.
    """
    result = run_episode(learner, episode)
    return result.loss, result.gradients


def outer_loss(learner: Learner, episode: Episode, query_weights: Sequence[float] | None = None) -> Tensor:
    """The query loss after adaptation (0-d, no graph): what `meta_gradient` differentiates (not Reptile's sum)."""
    return evaluate_episode(learner, episode, query_weights)[0]


@torch.no_grad()
def run_episode(
    learner: Learner,
    episode: Episode,
    query_weights: Sequence[float] | None = None,
    second_order_steps: int | None = None,
) -> EpisodeResult:
    """The meta-gradient of an episode of texts, by the learner's algorithm.

    Args:
        learner: left as it was.
        episode: Reptile, which knows no query set, takes its query texts for support too.
        query_weights: see `sweep`.
        second_order_steps: in place of the learner's own.
    """
    settings, support = learner.settings, episode.support
    if settings.algorithm == "reptile":
        support = Examples(support.texts + episode.query.texts, support.labels + episode.query.labels)
    order = settings.second_order_steps if second_order_steps is None else second_order_steps
    with closing(EpisodeTask(learner, support, episode.classes, episode.query, order=order)) as binding:
        task, rates, adam = binding.task, learner.rates(rows=binding.moved_rows), settings.inner_optimizer == "adam"
        if settings.algorithm == "reptile":
            swept = reptile_gradient(task, rates, adam=adam)
        elif settings.algorithm == "imaml":
            swept = implicit_gradient(task, rates, settings.proximal, hvp=settings.hvp)
        else:
            swept = sweep(
                task,
                rates,
                order,
                hvp=settings.hvp,
                kept_graphs=settings.kept_graphs,
                query_weights=query_weights,
                rate_gradients=settings.rates_learned,
                adam=adam,
            )
        correct = torch.stack(binding.hits[: len(task.query)]).sum()  # at theta_K, which comes first
        gradients = binding.pull_back(swept.gradients)
        if settings.rates_learned:
            logs, slopes = learner.log_inner_lr, swept.rate_gradients
            gradients["log_inner_lr"] = learner.inner_rates.gradient(logs, slopes, binding.moved_rows)
    return EpisodeResult(swept.loss, correct, gradients)


@torch.no_grad()
def evaluate_episode(
    learner: Learner, episode: Episode, query_weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Query loss after adaptation (0-d) and correct query predictions (0-d int64)."""
    loss = learner.log_inner_lr.new_zeros(())
    with (
        closing(EpisodeTask(learner, episode.support, episode.classes, episode.query)) as binding,
        in_scratch_memory(binding.task.moving) as home,
    ):
        steps = _inner_loop_of(learner, binding, home)
        for weight, _ in zip(query_weights or [], steps, strict=query_weights is not None):
            if weight:
                binding.hits.clear()
                loss += weight * sum(part() for part in binding.task.query)
        if query_weights is None:
            deque(steps, maxlen=0)
            loss += sum(part() for part in binding.task.query)
        return loss, torch.stack(binding.hits).sum()


def _inner_loop_of(
    learner: Learner, binding: EpisodeTask, home: list[Tensor], steps: int | None = None
) -> Iterator[Step]:
    """The learner's inner loop."""
    settings = learner.settings
    return inner_loop(
        binding.task,
        learner.rates(steps, binding.moved_rows),
        adam=settings.inner_optimizer == "adam",
        proximal=settings.proximal,
        home=home if settings.algorithm == "imaml" else None,
    )


@contextmanager
def adapted(
    learner: Learner,
    support: Examples,
    classes: Sequence[str],
    steps: int | None = None,
    layer: LinearLayer | None = None,
) -> Iterator[LinearLayer]:
    """Within the block the learner's encoder is adapted to `support`; yields the task's linear layer, valid in it only.

    Args:
        learner: put back to its initialisation when the block ends, also by an exception.
        support: labelled texts, any number per class.
        classes: names of the classes that the labels index.
        steps: inner steps, by default the learner's own; further steps use the last step's rates. 0 only builds the
            head.
        layer: where the task's linear layer starts; by default as the learner's head says.
    """
    with (
        closing(EpisodeTask(learner, support, classes, layer=layer)) as binding,
        in_scratch_memory(binding.task.moving) as home,
    ):
        with torch.no_grad():
            deque(_inner_loop_of(learner, binding, home, steps), maxlen=0)
        with binding.table_in_place():
            yield LinearLayer(binding.layer.weight.detach(), binding.layer.bias.detach())
