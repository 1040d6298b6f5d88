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

from collections.abc import Sequence

import torch

from metatext.core.gradients import Gradient, Rates, add, gradient
from metatext.core.hessian_products import add_difference_product, add_exact_product
from metatext.core.in_place import in_scratch_memory, move, put_back
from metatext.core.inner_loop import inner_loop, recorded_steps
from metatext.core.task import Step, Swept, Task


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
    with in_scratch_memory(task.moving):
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
