"""MAML on a transformer: the inner loop, and the meta-gradient by one reverse sweep.

Inner loop (SGD with a learned rate a_k per layer group and step), on the support loss L_S:

    theta_{k+1} = theta_k - a_k g_k,    g_k = grad L_S(theta_k)                     Finn 2017, algorithm 1, line 6

Meta-gradient of the query loss L_Q(theta_K), by the chain rule (Finn 2017, eq. 1), last step first:

    v_K = grad L_Q(theta_K)
    v_k = v_{k+1} - H_S(theta_k) a_k v_{k+1}                                        for the second-order steps
    d L_Q / d log a_k = -<v_{k+1}, a_k g_k>                                         Li 2017; Antoniou 2019

First-order MAML leaves the Hessian term out. With a prototype head, theta_0's head is a function of the encoder; its
vector-Jacobian product ends the sweep. Steps are taken in the learner's own parameters, which are put back afterwards,
so no step's graph reaches into another's and memory does not grow with K but for one displacement a_k g_k a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatext.errors import InputError
from metatext.heads import LinearLayer
from metatext.learner import LabelledBatches, Learner
from metatext.tasks import Episode, Examples


class EpisodeResult(NamedTuple):
    """Query loss after adaptation (0-d), correct query predictions (0-d int64), gradients by parameter name."""

    loss: Tensor
    correct: Tensor
    gradients: dict[str, Tensor]


class _Task(NamedTuple):
    """An episode's support and the tensors that its gradients are taken of."""

    support: LabelledBatches
    centroids: Tensor | None  # (ways, hidden) at theta_0
    layer: LinearLayer  # the task's head; leaves of the graph, moved in place
    moving: list[Tensor]  # the inner loop moves these
    still: list[Tensor]  # and not these, which are meta-learned all the same
    names: list[str]  # of moving + still


def meta_gradient(learner: Learner, episode: Episode) -> tuple[Tensor, dict[str, Tensor]]:
    """Query loss after adaptation, and its gradient with respect to the initialisation.

    Exact where the learner's `second_order_steps` equals its `inner_steps`; the learner is left as it was.

    Returns:
        The loss (0-d), and name -> gradient for all `learner.named_parameters()` that require one.
    """
    result = run_episode(learner, episode)
    return result.loss, result.gradients


def outer_loss(learner: Learner, episode: Episode) -> Tensor:
    """The loss that `meta_gradient` differentiates (0-d, no graph)."""
    return evaluate_episode(learner, episode)[0]


@torch.no_grad()
def run_episode(learner: Learner, episode: Episode) -> EpisodeResult:
    """Adapts, judges and sweeps back: the body of the outer loop of algorithm 1."""
    settings = learner.settings
    query = learner.batches(episode.query)
    task = _task(learner, learner.batches(episode.support), episode.classes)
    everything = task.moving + task.still
    moved = len(task.moving)
    hessian_product = _exact_product if settings.hvp == "exact" else _difference_product
    with restored(task.moving):
        first_kept = 0 if learner.log_inner_lr.requires_grad else settings.inner_steps - settings.second_order_steps
        steps = enumerate(_inner_loop(learner, task, settings.inner_steps))
        displacements = {k: displacement for k, displacement in steps if k >= first_kept}
        loss, logits, v = _gradient(learner, query, task.layer, everything)  # v_K
        hits = [(x.argmax(1) == y).sum() for x, (_, y) in zip(logits, query.batches, strict=True)]
        rate_gradient = torch.zeros_like(learner.log_inner_lr)
        for k in reversed(range(settings.inner_steps)):
            if learner.log_inner_lr.requires_grad:
                _add_rate_gradient(rate_gradient[:, k], learner.rate_groups(), v[:moved], displacements[k])
            if k >= settings.inner_steps - settings.second_order_steps:
                torch._foreach_add_(task.moving, displacements[k])  # back to theta_k
                scaled = list(torch._foreach_mul(v[:moved], _rates(learner, k)))
                torch._foreach_sub_(v, hessian_product(learner, task, scaled))
    gradients = dict(zip(task.names, v, strict=True))
    _pull_back_head(learner, task, episode.classes, gradients)
    if learner.log_inner_lr.requires_grad:
        gradients["log_inner_lr"] = rate_gradient
    return EpisodeResult(loss, torch.stack(hits).sum(), gradients)


@torch.no_grad()
def evaluate_episode(learner: Learner, episode: Episode) -> tuple[Tensor, Tensor]:
    """Query loss after adaptation (0-d) and correct query predictions (0-d int64)."""
    query = learner.batches(episode.query)
    loss, correct = learner.log_inner_lr.new_zeros(()), torch.tensor(0, device=learner.device)
    with adapted(learner, episode.support, episode.classes) as layer:
        for batch, labels in query.batches:
            batch_loss, logits = learner.loss(batch, labels, layer)
            loss += batch_loss / query.size
            correct += (logits.argmax(1) == labels).sum()
    return loss, correct


@contextmanager
def adapted(
    learner: Learner, support: Examples, classes: Sequence[str], steps: int | None = None
) -> Iterator[LinearLayer]:
    """Within the block the learner's encoder is adapted to `support`; yields the task's linear layer, valid in it only.

    Args:
        learner: put back to its initialisation when the block ends, also by an exception.
        support: labelled texts, any number per class.
        classes: names of the classes that the labels index.
        steps: inner steps, by default the learner's own; further steps use the last step's rates. 0 only builds the
            head.
    """
    with torch.no_grad():
        task = _task(learner, learner.batches(support), classes)
    with restored(task.moving):
        with torch.no_grad():
            for _ in _inner_loop(learner, task, learner.settings.inner_steps if steps is None else steps):
                pass
        yield LinearLayer(task.layer.weight.detach(), task.layer.bias.detach())


@contextmanager
def restored(tensors: list[Tensor]) -> Iterator[None]:
    """Puts the values of `tensors` back when the block ends."""
    start = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(tensors, start)


def _task(learner: Learner, support: LabelledBatches, classes: Sequence[str]) -> _Task:
    centroids = learner.centroids(support, len(classes))
    start = learner.head.start(classes, centroids)
    layer = LinearLayer(*(tensor.clone().requires_grad_() for tensor in start))
    named = dict(learner.encoder.named_parameters())
    frozen = [name for name in learner.inner_names if not named[name].requires_grad]
    if frozen:
        raise InputError(f"{frozen[0]} was frozen after the learner was made; freeze an encoder's parameters before")
    moving: dict[str, Tensor] = {f"encoder.{name}": named[name] for name in learner.inner_names}
    rest = [name for name, p in named.items() if p.requires_grad and f"encoder.{name}" not in moving]
    still: dict[str, Tensor] = {f"encoder.{name}": named[name] for name in rest}
    (moving if learner.head_moves else still).update({"layer.weight": layer.weight, "layer.bias": layer.bias})
    return _Task(support, centroids, layer, list(moving.values()), list(still.values()), [*moving, *still])


def _rates(learner: Learner, k: int) -> list[Tensor]:
    """a_k for each moving tensor."""
    column = learner.log_inner_lr.detach()[:, min(k, learner.log_inner_lr.shape[1] - 1)].exp().unbind()
    return [column[group] for group in learner.rate_groups()]


def _inner_loop(learner: Learner, task: _Task, steps: int) -> Iterator[list[Tensor]]:
    """Moves the task's tensors by one gradient step after another; yields each displacement a_k g_k."""
    for k in range(steps):
        _, _, gradient = _gradient(learner, task.support, task.layer, task.moving)  # g_k
        torch._foreach_mul_(gradient, _rates(learner, k))
        torch._foreach_sub_(task.moving, gradient)  # theta_{k+1} = theta_k - a_k g_k
        yield gradient


def _gradient(
    learner: Learner, examples: LabelledBatches, layer: LinearLayer, wanted: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Mean loss over all batches, their logits, and the gradient; zeros for what the loss does not depend on."""
    mean, every_logits, total = learner.log_inner_lr.new_zeros(()), [], list[Tensor]()
    for batch, labels in examples.batches:
        with torch.enable_grad():
            loss, logits = learner.loss(batch, labels, layer)
            scaled = loss * (learner.loss_scale / examples.size)
        part = torch.autograd.grad(scaled, wanted, materialize_grads=True)
        total = _sum(total, part)
        mean += loss.detach() / examples.size
        every_logits.append(logits.detach())
    if learner.loss_scale != 1.0:
        torch._foreach_div_(total, learner.loss_scale)
    return mean, every_logits, total


def _sum(total: list[Tensor], part: Sequence[Tensor]) -> list[Tensor]:
    if not total:
        return list(part)
    torch._foreach_add_(total, list(part))
    return total


def _add_rate_gradient(column: Tensor, groups: list[int], v: list[Tensor], displacement: list[Tensor]) -> None:
    """Adds -<v, a_k g_k> of each layer group to `column` (groups,)."""
    products = torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(v, displacement, strict=True)])
    column.index_add_(0, torch.tensor(groups, device=column.device), products, alpha=-1)


def _exact_product(learner: Learner, task: _Task, u: list[Tensor]) -> list[Tensor]:
    """H u by double backward of one step: d <g_k, u> / d everything, for `u` over the moving tensors."""
    everything, total = task.moving + task.still, list[Tensor]()
    scale = learner.loss_scale / task.support.size
    for batch, labels in task.support.batches:
        # Fused attention has no double backward: https://github.com/pytorch/pytorch/issues/116350
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss, _ = learner.loss(batch, labels, task.layer)
            gradient = torch.autograd.grad(loss * scale, task.moving, create_graph=True, materialize_grads=True)
            pairs = [(g, x) for g, x in zip(gradient, u, strict=True) if g.requires_grad]
        part = torch.autograd.grad([g for g, _ in pairs], everything, [x for _, x in pairs], materialize_grads=True)
        total = _sum(total, part)
    if learner.loss_scale != 1.0:
        torch._foreach_div_(total, learner.loss_scale)
    return total


def _difference_product(learner: Learner, task: _Task, u: list[Tensor]) -> list[Tensor]:
    """H u by a central difference of gradients, (g(theta + e u) - g(theta - e u)) / 2e, with e |u| fixed."""
    everything = task.moving + task.still
    norm = torch.stack(torch._foreach_norm(u)).norm().item()
    if norm == 0.0:
        return [torch.zeros_like(tensor) for tensor in everything]
    step = (1e-5 if learner.log_inner_lr.dtype == torch.float64 else 1e-2) / norm
    with restored(task.moving):
        torch._foreach_add_(task.moving, u, alpha=step)
        _, _, ahead = _gradient(learner, task.support, task.layer, everything)
        torch._foreach_sub_(task.moving, u, alpha=2 * step)
        _, _, behind = _gradient(learner, task.support, task.layer, everything)
    torch._foreach_sub_(ahead, behind)
    torch._foreach_div_(ahead, 2 * step)
    return ahead


def _pull_back_head(learner: Learner, task: _Task, classes: Sequence[str], gradients: dict[str, Tensor]) -> None:
    """Replaces the gradient of theta_0's linear layer by that of the meta-parameters which it was made from."""
    v = LinearLayer(gradients.pop("layer.weight"), gradients.pop("layer.bias"))
    head = dict(learner.head.named_parameters())
    with torch.enable_grad():
        centroids = None if task.centroids is None else task.centroids.requires_grad_()
        start = learner.head.start(classes, centroids)
    sources = [*head.values(), *([] if centroids is None else [centroids])]
    pulled = torch.autograd.grad(start, sources, v)
    gradients.update({f"head.{name}": g for name, g in zip(head, pulled[: len(head)], strict=True)})
    if centroids is None or not learner.settings.prototype_gradient:
        return
    per_text = pulled[-1] / learner.class_counts(task.support, len(classes)).unsqueeze(1)  # d centroid / d feature
    parameters = {n: p for n, p in learner.named_parameters() if n in gradients and n.startswith("encoder.")}
    for batch, labels in task.support.batches:
        with torch.enable_grad():
            features = learner.features(batch)
        scaled = per_text[labels] * learner.loss_scale
        part = torch.autograd.grad(features, list(parameters.values()), scaled, materialize_grads=True)
        torch._foreach_add_([gradients[n] for n in parameters], list(part), alpha=1 / learner.loss_scale)
