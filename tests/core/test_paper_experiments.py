"""Tests the experiments of the MAML paper: stacked tasks, gradients, trajectories, and the two scripts."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.maml import sweep
from metatext.core.task import Task

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def sinusoid(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT / "recipes" / "maml_paper"))
    return importlib.import_module("sinusoid")


@pytest.fixture
def navigation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT / "recipes" / "maml_paper"))
    return importlib.import_module("navigation")


def jitter(net: nn.Module) -> nn.Module:
    """Perturbs the parameters of a net, so that no derivative is small."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def slope(task: Task, rates: list[float], direction: list[Tensor]) -> float:
    """Returns the slope of the query loss after adaptation along `direction`: central differences, extrapolated."""

    def loss(step: float) -> float:
        with torch.no_grad(), in_scratch_memory(task.moving):
            torch._foreach_add_([p.data for p in task.moving], direction, alpha=step)
            for _ in inner_loop(task, [[rate] * len(task.moving) for rate in rates]):
                pass
            return sum(part().item() for part in task.query)

    wide, narrow = ((loss(h) - loss(-h)) / (2 * h) for h in (2e-5, 1e-5))
    return (4 * narrow - wide) / 3


def random_direction(task: Task) -> list[Tensor]:
    """Returns a random direction of length 1."""
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator) for p in task.moving]
    length = math.sqrt(sum(float(d.square().sum()) for d in direction))
    return [d / length for d in direction]


@pytest.mark.parametrize("second_order_steps", [0, 1, 3])
def test_stacked_tasks_give_the_meta_gradient_of_one_task_at_a_time(
    sinusoid: ModuleType, second_order_steps: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    net = jitter(sinusoid.make_net(generator))
    sines = sinusoid.Sines.draw(4, generator)
    support, query = sines.points(5, generator), sines.points(7, generator)
    rates = [0.01, 0.02, 0.005]
    stacked = sweep(sinusoid.stacked_task(net, support, query), rates, second_order_steps)

    def loss(points: tuple[Tensor, Tensor], i: int) -> Tensor:
        return mse_loss(net(points[0][i]), points[1][i])

    parameters, losses = list(net.parameters()), []
    totals = [torch.zeros_like(p) for p in parameters]
    for i in range(4):
        task = Task([lambda i=i: loss(support, i)], [lambda i=i: loss(query, i) / 4], parameters)
        alone = sweep(task, rates, second_order_steps)
        torch._foreach_add_(totals, alone.gradients)
        losses.append(alone.loss)
    torch.testing.assert_close(stacked.loss, sum(losses), rtol=1e-12, atol=0.0)
    for copies, total in zip(stacked.gradients, totals, strict=True):
        torch.testing.assert_close(copies.sum(0), total, rtol=1e-10, atol=1e-12)


def test_the_meta_gradient_of_sinusoids_agrees_with_finite_differences(sinusoid: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    net = jitter(sinusoid.make_net(generator))
    sines = sinusoid.Sines.draw(3, generator)
    task = sinusoid.stacked_task(net, sines.points(5, generator), sines.points(7, generator))
    direction, rates = random_direction(task), [0.01, 0.02]
    exact = sum(float((g * d).sum()) for g, d in zip(sweep(task, rates, 2).gradients, direction, strict=True))
    assert slope(task, rates, direction) == pytest.approx(exact, rel=1e-6)
    first_order = sum(float((g * d).sum()) for g, d in zip(sweep(task, rates).gradients, direction, strict=True))
    assert abs(first_order / exact - 1) > 1e-2, "the second order is too small here to be tested"


def test_the_meta_gradient_through_reinforce_agrees_with_finite_differences(navigation: ModuleType) -> None:
    settings = navigation.Navigation(tasks=3, trajectories=4, horizon=10)
    generator = torch.Generator().manual_seed(0)
    policy = jitter(navigation.Policy(generator))
    parameters, goals = navigation.parameter_copies(policy, 3), settings.draw_goals(3, generator)
    before, after = (settings.sample_trajectories(policy, parameters, goals, generator) for _ in range(2))
    support, query = ([lambda p=p: navigation.reinforce_loss(policy, parameters, p).sum()] for p in (before, after))
    task = Task(support, query, parameters)
    direction, rates = random_direction(task), [0.1]
    exact = sum(float((g * d).sum()) for g, d in zip(sweep(task, rates, 1).gradients, direction, strict=True))
    assert slope(task, rates, direction) == pytest.approx(exact, rel=1e-6)


@pytest.fixture
def samplings(navigation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Tensor], Any]]:
    """Records each sampling of trajectories: the parameters of the policies, and the trajectories."""
    seen, sample = [], navigation.Navigation.sample_trajectories

    def recorded(self: object, policy: nn.Module, parameters: list[Tensor], *rest: object) -> object:
        copies = [p.detach().clone().requires_grad_() for p in parameters]
        seen.append((copies, sample(self, policy, parameters, *rest)))
        return seen[-1][1]

    monkeypatch.setattr(navigation.Navigation, "sample_trajectories", recorded)
    return seen


def test_query_trajectories_are_those_of_the_adapted_policy(
    navigation: ModuleType, samplings: list[tuple[list[Tensor], Any]]
) -> None:
    settings = navigation.Navigation(tasks=2, trajectories=3, horizon=5, inner_lr=0.5)
    generator = torch.Generator().manual_seed(0)
    policy = navigation.Policy(generator)
    settings.outer_step(policy, 1, 1, generator)
    (at_start, before), (adapted, _) = samplings  # sampled once, however many steps the line search tries
    gradient = torch.autograd.grad(navigation.reinforce_loss(policy, at_start, before).sum(), at_start)
    for here, there, g in zip(at_start, adapted, gradient, strict=True):
        torch.testing.assert_close(there, here - 0.5 * g)


@pytest.mark.parametrize(("inner_steps", "second_order_steps"), [(1, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("limit", [1e-3, 1e-5])
def test_an_outer_step_keeps_the_adapted_policies_near(
    navigation: ModuleType,
    samplings: list[tuple[list[Tensor], Any]],
    inner_steps: int,
    second_order_steps: int,
    limit: float,
) -> None:
    settings = navigation.Navigation(tasks=3, trajectories=5, horizon=20, max_kl=limit)
    generator = torch.Generator().manual_seed(0)
    policy = navigation.Policy(generator)
    settings.outer_step(policy, inner_steps, second_order_steps, generator)
    (_, before), (old, after) = samplings
    new = [p.detach().requires_grad_() for p in navigation.parameter_copies(policy, 3)]
    if inner_steps:
        gradient = torch.autograd.grad(navigation.reinforce_loss(policy, new, before).sum(), new)
        new = [(p - 0.1 * g).detach() for p, g in zip(new, gradient, strict=True)]
    (m, s), (n, t) = (navigation.call_per_task(policy, each, after.positions.flatten(1, 2)) for each in (old, new))
    kl = ((t / s).log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(2)[after.active.flatten(1) == 1].mean()
    assert limit / 1000 < kl.item() <= limit * (1 + 1e-9)


def test_ratios_have_the_gradient_of_reinforce_where_the_trajectories_were_sampled(navigation: ModuleType) -> None:
    settings = navigation.Navigation(tasks=3, trajectories=4, horizon=10)
    generator = torch.Generator().manual_seed(0)
    policy = jitter(navigation.Policy(generator))
    parameters = navigation.parameter_copies(policy, 3)
    trajectories = settings.sample_trajectories(policy, parameters, settings.draw_goals(3, generator), generator)
    policies = navigation.action_distribution(policy, parameters, trajectories.positions.flatten(1, 2))
    old = type(policies)(policies.mean.detach(), policies.stddev.detach())
    found = torch.autograd.grad(
        navigation.importance_ratio_loss(old, policies, trajectories), parameters, retain_graph=True
    )
    expected = torch.autograd.grad(navigation.reinforce_loss(policy, parameters, trajectories).mean(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert navigation.mean_kl(old, policies, trajectories).item() == 0.0


def test_a_trust_region_step_is_the_natural_gradient_to_the_border(navigation: ModuleType) -> None:
    home, g = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 1.0, -1.0])
    metric = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]])

    def step(factor: float, slope: float) -> tuple[bool, Tensor]:
        x = home.clone().requires_grad_()

        def divergence() -> Tensor:
            return (x - home) @ metric @ (x - home) / 2

        def loss_and_divergence() -> tuple[Tensor, Tensor]:
            return slope * (g @ x), divergence() * factor

        return navigation.trust_region_step([x], [g], divergence, loss_and_divergence, 0.02, damping=0.01), x.detach()

    natural = torch.linalg.solve(metric + 0.01 * torch.eye(3), g)
    whole = natural * (0.04 / (natural @ metric @ natural)).sqrt()
    taken, x = step(0.99, 1.0)
    assert taken
    torch.testing.assert_close(x, home - whole)
    taken, x = step(10.0, 1.0)  # 0.2, then 0.05, then 0.0125
    assert taken
    torch.testing.assert_close(x, home - whole / 4)
    taken, x = step(math.nan, 1.0)
    assert not taken and torch.equal(x, home)
    taken, x = step(0.99, -1.0)  # the loss would rise
    assert not taken and torch.equal(x, home)


def test_trajectories_end_at_the_goal(navigation: ModuleType) -> None:
    class Right(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.speed = nn.Parameter(torch.tensor([5.0, 0.0]))  # clipped

        def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
            return self.speed.expand_as(positions), torch.full_like(positions, 1e-9)

    settings = navigation.Navigation(trajectories=2, horizon=6)
    goals = torch.tensor([[[0.3, 0.0]], [[0.1, 0.4]]])
    trajectories = settings.sample_trajectories(
        Right(), navigation.parameter_copies(Right(), 2), goals, torch.Generator()
    )
    assert trajectories.active[:, 0].tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    torch.testing.assert_close(trajectories.rewards[0, 1], -torch.tensor([0.04, 0.01, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(trajectories.rewards[1, 0], -torch.tensor([0.16, 0.17, 0.2, 0.25, 0.32, 0.41]))
    torch.testing.assert_close(trajectories.positions[1, 1, :, 0], torch.arange(6) / 10)


def test_advantages_are_what_least_squares_leaves(navigation: ModuleType) -> None:
    settings = navigation.Navigation(tasks=3, trajectories=10, horizon=30)
    generator = torch.Generator().manual_seed(0)
    policy = navigation.Policy(generator)
    goals = 0.1 * settings.draw_goals(3, generator)  # near: some trajectories end
    trajectories = settings.sample_trajectories(policy, navigation.parameter_copies(policy, 3), goals, generator)
    result = navigation.advantages(trajectories, 0.9).view_as(trajectories.active)
    assert trajectories.active.mean() < 1 and bool((result[trajectories.active == 0] == 0).all())
    for task in range(3):
        rows, targets, found = [], [], []
        for path in range(10):
            for t in range(int(trajectories.active[task, path].sum())):
                x, y = trajectories.positions[task, path, t].tolist()
                rows.append([x, y, x * x, y * y, 1.0, t / 100, (t / 100) ** 2, (t / 100) ** 3])
                rewards = trajectories.rewards[task, path, t:].tolist()
                targets.append(sum(0.9**k * reward for k, reward in enumerate(rewards)))
                found.append(float(result[task, path, t]))
        ridge = np.vstack([rows, 1e-5**0.5 * np.eye(8)])
        weights = np.linalg.lstsq(ridge, np.array([*targets, *[0.0] * 8]), rcond=None)[0]
        np.testing.assert_allclose(found, targets - np.array(rows) @ weights, rtol=0.0, atol=1e-6)


def run_script(name: str, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, f"recipes/maml_paper/{name}.py", "--output", str(output), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600)


TINY = {
    "sinusoid": ["--tasks", "2", "--test-tasks", "3", "--test-points", "3", "4", "--test-steps", "2"],
    "navigation": ["--tasks", "2", "--test-tasks", "3", "--trajectories", "3", "--horizon", "5", "--test-steps", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "problems"), [("sinusoid", ["3 points", "4 points"]), ("navigation", ["navigation"])])
def test_scripts_write_what_they_say(tmp_path: Path, name: str, problems: list[str]) -> None:
    pytest.importorskip("matplotlib")
    options = [*TINY[name], "--iterations", "2", "--seeds", "4", "5", "--pretrained-lrs", "0.1"]
    done = run_script(name, tmp_path, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert result["settings"]["iterations"] == 2 and result["settings"]["seeds"] == [4, 5]
    assert len(result["records"]) == 3 * 2 * len(problems) and len(result["rows"]) == 3 * len(problems)
    assert {r["problem"] for r in result["rows"]} == set(problems)
    assert all(len(r["mean"]) == len(r["ci95"]) == 3 for r in result["rows"])
    for row in result["rows"]:
        same = [r for r in result["records"] if (r["problem"], r["method"]) == (row["problem"], row["method"])]
        assert [r["seed"] for r in same] == [4, 5]
        assert row["mean"] == pytest.approx([sum(pair) / 2 for pair in zip(*(r["mean"] for r in same), strict=True)])
        assert f"| {row['problem']} | {row['method']} | {row['mean'][0]:.2f} ± " in done.stdout
    assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize("method", ["full MAML", "first-order MAML", "joint pre-training"])
def test_equal_seeds_are_equal_results(sinusoid: ModuleType, navigation: ModuleType, method: str) -> None:
    for settings in (
        sinusoid.Sinusoid(iterations=3, test_tasks=4),
        navigation.Navigation(iterations=2, tasks=2, trajectories=3, horizon=5, test_tasks=4),
    ):
        first, second = (settings.test(settings.train(method, seed=3), 0.1, seed=3) for _ in range(2))
        other = settings.test(settings.train(method, seed=4), 0.1, seed=4)
        for name, values in first.items():
            assert torch.equal(values, second[name]) and not torch.equal(values, other[name])


def test_one_seed_has_no_interval(sinusoid: ModuleType) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="--seeds 1: give at least two, for the confidence intervals"):
        sinusoid.Sinusoid(seeds=(1,)).run()


def test_a_missing_matplotlib_is_one_sentence(sinusoid: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'metatext\[plot\]'"):
        sinusoid.Sinusoid(iterations=0).run()
