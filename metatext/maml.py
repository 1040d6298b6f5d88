"""MAML: the inner loop, and the meta-gradient by one reverse sweep.

Inner loop (SGD with a learned rate a_k per layer group and step), on the support loss L_S:

    theta_{k+1} = theta_k - a_k g_k,    g_k = grad L_S(theta_k)                     Finn 2017, algorithm 1, line 6

Meta-gradient of the query loss L_Q(theta_K), by the chain rule (Finn 2017, eq. 1), last step first:

    v_K = grad L_Q(theta_K)
    v_k = v_{k+1} - H_S(theta_k) a_k v_{k+1}                                        for the second-order steps
    v_k += w_k grad L_Q(theta_k)                                                    multi-step loss, Antoniou 2019
    d L_Q / d log a_k = -<v_{k+1}, a_k g_k>                                         Li 2017; Antoniou 2019

First-order MAML leaves the Hessian term out. `sweep` serves any differentiable model; `meta_gradient` a learner and an
episode of texts. No step's graph reaches into another's, so memory is that of one step, but for one g_k a step (with
one-sided differences that of the still tensors too).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from metatext.binding import Binding
from metatext.heads import LinearLayer
from metatext.imaml import implicit_gradient
from metatext.inner import (
    Gradient,
    Rates,
    Step,
    Swept,
    Task,
    add,
    add_difference_product,
    add_exact_product,
    elsewhere,
    gradient,
    inner_loop,
    move,
    put_back,
    recorded_steps,
)
from metatext.learner import Learner
from metatext.reptile import reptile_gradient
from metatext.tasks import Episode, Examples


class EpisodeResult(NamedTuple):
    """Query loss after adaptation (0-d), correct query predictions (0-d int64), gradients by parameter name."""

    loss: Tensor
    correct: Tensor
    gradients: dict[str, Tensor]


@torch.no_grad()
def sweep(
    task: Task,
    rates: Sequence[Rates | float],
    second_order_steps: int = 0,
    *,
    hvp: str = "exact",
    kept_graphs: int | str = 0,
    query_weights: Sequence[float] | None = None,
    rate_gradients: bool = False,
    adam: bool = False,
) -> Swept:
    """Adapts, judges and sweeps back: the body of the outer loop of algorithm 1, for any model.

    Args:
        task: losses and tensors at theta_0; its tensors have the same values afterwards.
        rates: a_k for each of the K inner steps: one number, or one for each moving tensor.
        second_order_steps: differentiate through this many of the last steps; 0 is first-order, K full MAML.
        hvp: "exact", "finite-difference" (central) or "one-sided".
        kept_graphs: of "exact": keep the graphs of this many of the last steps; "auto": of as many as fit in half of
            the free memory.
        query_weights: w_1 .. w_K, weights of the query loss after each step; by default all is on the last.
        rate_gradients: whether the gradients of log a_k are wanted.
        adam: first-order, with Adam's inner steps.
    """
    if query_weights is not None and len(query_weights) != len(rates):
        raise ValueError(f"{len(query_weights)} query_weights for {len(rates)} inner steps: each step needs one")
    each: list[Rates] = [[float(r)] * len(task.moving) if isinstance(r, int | float) else r for r in rates]
    first, everything = len(rates) - second_order_steps, task.everything
    weights = [0.0] * len(rates) if query_weights is None else [0.0, *query_weights[:-1]]  # w_k at theta_k
    kept = recorded_steps(second_order_steps, hvp, kept_graphs)
    back_to = 0 if rate_gradients else min([first, *(k for k, w in enumerate(weights) if w)])
    with elsewhere(task.moving):
        steps: list[Step] = []
        still, fits = second_order_steps if hvp == "one-sided" else 0, kept_graphs == "auto"
        for k, step in enumerate(inner_loop(task, each, kept, if_it_fits=fits, still=still, adam=adam)):
            steps.append(step if k >= back_to else Step([]))
        loss, v = gradient(task.query, everything, task.loss_scale)  # v_K
        if query_weights is not None:
            loss = loss * query_weights[-1]
            v = [None if g is None else g * query_weights[-1] for g in v]
        slopes: list[Gradient] = []
        for k in reversed(range(back_to, len(rates))):
            step = steps.pop()
            if rate_gradients:
                slopes.insert(0, _rate_gradient(each[k], v, step.gradient))
            if k < first and not any(weights[: k + 1]):
                continue
            if step.values is None:
                move(task.moving, step.gradient, each[k], 1.0)  # back to theta_k
            else:
                put_back(task.moving, step.values)
            if k >= first:
                _subtract_product(v, task, each[k], step, hvp)
            if weights[k]:
                value, part = gradient(task.query, everything, task.loss_scale)
                loss += weights[k] * value
                add(v, part, weights[k])
    return Swept(loss, v, slopes)


def _subtract_product(v: Gradient, task: Task, rates: Rates, step: Step, hvp: str) -> None:
    """v -= H a v."""
    moved = v[: len(task.moving)]
    if hvp == "exact":
        u = [None if g is None else g * rate for g, rate in zip(moved, rates, strict=True)]
        add_exact_product(v, -1.0, task, u, step.graphs)
    elif hvp == "finite-difference":
        add_difference_product(v, -1.0, task, moved, rates=rates)
    else:
        add_difference_product(v, -1.0, task, moved, [*step.gradient, *(step.still or [])], rates)


def _rate_gradient(rates: Rates, v: Gradient, g: Gradient) -> Gradient:
    """-<v, a g> for each moving tensor; elementwise where the rate is a tensor."""
    result: Gradient = []
    for rate, some, other in zip(rates, v, g, strict=False):
        if some is None or other is None:
            result.append(None)
        elif isinstance(rate, float):
            result.append(torch.dot(some.flatten(), other.flatten()) * -rate)
        else:
            result.append(-(some * other * rate))
    return result


# ------------------------------------------------------------------------------------------- a learner's episode
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
    with closing(Binding(learner, support, episode.classes, episode.query, order=order)) as binding:
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
        closing(Binding(learner, episode.support, episode.classes, episode.query)) as binding,
        elsewhere(binding.task.moving) as home,
    ):
        steps = _adapt(learner, binding, home)
        for weight, _ in zip(query_weights or [], steps, strict=query_weights is not None):
            if weight:
                binding.hits.clear()
                loss += weight * sum(part() for part in binding.task.query)
        if query_weights is None:
            deque(steps, maxlen=0)
            loss += sum(part() for part in binding.task.query)
        return loss, torch.stack(binding.hits).sum()


def _adapt(learner: Learner, binding: Binding, home: list[Tensor], steps: int | None = None) -> Iterator[Step]:
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
    with closing(Binding(learner, support, classes, layer=layer)) as binding, elsewhere(binding.task.moving) as home:
        with torch.no_grad():
            deque(_adapt(learner, binding, home, steps), maxlen=0)
        with binding.table_in_place():
            yield LinearLayer(binding.layer.weight.detach(), binding.layer.bias.detach())
