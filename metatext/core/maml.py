"""MAML: adapts to the support in an inner loop, and computes the meta-gradient in one reverse sweep.

Inner loop with learning rates a_k on the support loss L_S, for k = 0 .. K - 1:

    theta_{k+1} = theta_k - a_k g_k,    g_k = grad L_S(theta_k)                     (1) Finn 2017, algorithm 1, line 6

Meta-gradient v_0 = d L_Q(theta_K) / d theta_0 of the query loss L_Q. The chain rule, applied to the gradient in
Finn 2017, eq. 1, gives it from the last step to the first, with the Hessian H_S of L_S:

    v_K = grad L_Q(theta_K)                                                         (2)
    v_k = v_{k+1} - H_S(theta_k) a_k v_{k+1}                                        (3) second-order steps
    v_k = v_{k+1}                                                                   (3') first-order steps
    d L_Q / d log a_k = -<v_{k+1}, a_k g_k>                                         (4) Li 2017; Antoniou 2019

The multi-step loss sum_k w_k L_Q(theta_k) multiplies (2) by w_K and adds to v_k, after (3) or (3')

    w_k grad L_Q(theta_k)                                                           (5) Antoniou 2019

Full MAML has second-order steps only, first-order MAML first-order steps only. No graph spans two steps, so the sweep
needs the memory of one step's graph, one gradient g_k per step, and the graphs that it is told to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from metatext.core.gradients import Gradient, Rates, add, gradient
from metatext.core.hessian_products import add_difference_product, add_exact_product
from metatext.core.in_place import in_scratch_memory, move, put_back
from metatext.core.inner_loop import inner_loop, recorded_steps
from metatext.core.task import Step, Task, TaskResult


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
) -> TaskResult:
    """Computes the query loss after K inner steps and its meta-gradient, for any differentiable model.

    Args:
        task: losses and tensors at theta_0. The tensors have the same values afterwards.
        rates: a_k for each of the K inner steps: one number, or one rate for each moving tensor.
        second_order_steps: number of last steps that are second-order; 0 is first-order MAML, K is full MAML.
        hvp: Hessian-vector product: "exact", "finite-difference" (central) or "one-sided".
        kept_graphs: number of last steps that keep their graphs, to save time; "auto" fills half of the free memory.
        query_weights: weights w_1 .. w_K of the query loss after each step; by default all weight is on the last.
        rate_gradients: compute the gradients of log a_k too.
        adam: let the inner loop take Adam's directions. Needs `second_order_steps` = 0.

    Raises:
        ValueError: the number of `query_weights` is not K.

    Example:
        If L_S = L_Q = theta^2 / 2, then theta_2 = (1 - a)^2 theta_0 and d L_Q / d theta_0 = (1 - a)^2 theta_2.

        >>> theta = torch.tensor(4.0, requires_grad=True)
        >>> loss = lambda: theta.square() / 2
        >>> task = Task(support=[loss], query=[loss], moving=[theta])
        >>> sweep(task, rates=[0.5, 0.5], second_order_steps=2).gradients
        [tensor(0.2500)]
    """
    K = len(rates)
    if query_weights is not None and len(query_weights) != K:
        raise ValueError(f"{len(query_weights)} query_weights for {K} inner steps: each step needs one")
    a: list[Rates] = [[float(r)] * len(task.moving) if isinstance(r, int | float) else r for r in rates]
    w = [*[0.0] * K, 1.0] if query_weights is None else [0.0, *query_weights]  # w_0 .. w_K
    kept = recorded_steps(second_order_steps, hvp, kept_graphs)
    with in_scratch_memory(task.moving):
        auto, constant = kept_graphs == "auto", second_order_steps if hvp == "one-sided" else 0
        loop = inner_loop(task, a, kept, limit_memory=auto, constant_gradients=constant, adam=adam)  # (1)
        # The sweep ends at the first step that is second-order, has a query loss, or needs the gradient of its rates.
        end = 0 if rate_gradients else min([K - second_order_steps, *(k for k in range(K) if w[k])])
        for _ in islice(loop, end):
            pass
        steps = list(loop)
        return _sweep_back(task, a, w, steps, second_order_steps, hvp, rate_gradients)


def _sweep_back(
    task: Task,
    a: Sequence[Rates],
    w: Sequence[float],
    steps: list[Step],
    second_order_steps: int,
    hvp: str,
    rate_gradients: bool,
) -> TaskResult:
    """Computes the meta-gradient from theta_K back to the first of `steps`, which hold the last inner steps.

    The moving tensors have their values at theta_K. `steps` is emptied, so that memory is freed on the way.
    """
    K, log_rate_gradients = len(a), list[Gradient]()
    loss, v = gradient(task.query, task.everything, task.loss_scale)  # (2)
    if w[K] != 1.0:
        loss, v = w[K] * loss, [None if g is None else w[K] * g for g in v]
    for k in reversed(range(K - len(steps), K)):
        step = steps.pop()
        if rate_gradients:
            log_rate_gradients.insert(0, _rate_gradient(a[k], v, step.gradient))  # (4)
        second_order = k >= K - second_order_steps
        if not second_order and not any(w[: k + 1]):
            continue  # (3'), and no earlier step changes v
        _return_to_theta_k(task, a[k], step)
        if second_order:
            _subtract_hessian_product(v, task, a[k], step, hvp)  # (3)
        if w[k]:
            query_loss, query_gradient = gradient(task.query, task.everything, task.loss_scale)
            loss += w[k] * query_loss
            add(v, query_gradient, w[k])  # (5)
    return TaskResult(loss, v, log_rate_gradients)


def _return_to_theta_k(task: Task, rates: Rates, step: Step) -> None:
    """Gives the moving tensors the values before a step: from the kept step, or by undoing it, exact up to rounding."""
    if step.values is None:
        move(task.moving, step.gradient, rates, 1.0)
    else:
        put_back(task.moving, step.values)


def _subtract_hessian_product(v: Gradient, task: Task, rates: Rates, step: Step, hvp: str) -> None:
    """Subtracts H_S(theta_k) a_k v from v in place. The tensors of the task must have their values at theta_k."""
    v_moving = v[: len(task.moving)]
    if hvp == "exact":
        vector = [None if g is None else g * rate for g, rate in zip(v_moving, rates, strict=True)]
        add_exact_product(v, -1.0, task, vector, step.graphs)
    elif hvp == "finite-difference":
        add_difference_product(v, -1.0, task, v_moving, rates=rates)
    else:
        gradient_here = [*step.gradient, *(step.constant_gradient or [])]
        add_difference_product(v, -1.0, task, v_moving, gradient_here, rates)


def _rate_gradient(rates: Rates, v: Gradient, g: Gradient) -> Gradient:
    """Returns -<v, rates * g> for each moving tensor, 0-d; elementwise if the rate of a tensor is elementwise."""
    result: Gradient = []
    for rate, v_entry, g_entry in zip(rates, v, g, strict=False):
        if v_entry is None or g_entry is None:
            result.append(None)
        elif isinstance(rate, float):
            result.append(torch.dot(v_entry.flatten(), g_entry.flatten()) * -rate)
        else:
            result.append(-(v_entry * g_entry * rate))
    return result
