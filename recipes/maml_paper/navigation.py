"""Walk to a goal that only the rewards tell: section 5.3 of the MAML paper (Finn, Abbeel and Levine, 2017).

    OMP_NUM_THREADS=1 python recipes/maml_paper/navigation.py

takes about 20 minutes on one core and writes runs/navigation/navigation.json and .svg. A first look in a minute:

    OMP_NUM_THREADS=1 python recipes/maml_paper/navigation.py --iterations 20 --tasks 10 --seeds 0 1
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from experiment_report import METHODS, compare, report
from stacked_tasks import call, copies
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from tqdm import tqdm
from trust_region import trust_region_step

from metatext.cli.runner import run_command
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Task
from metatext.evaluation.plot import pyplot
from metatext.maml import sweep

SPEED = 0.1  # at most so far along each axis in a time step


class Policy(nn.Module):
    """A Gaussian of velocities in units of SPEED, with a 2-100-100-2 net of the position as its mean."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        last = nn.Linear(100, 2)
        self.mean = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), last)
        self.log_std = nn.Parameter(torch.zeros(2))
        for parameter in self.mean.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
        last.weight.data *= 0.01  # so that the first paths stay near the origin

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (n, 2), at positions (n, 2)."""
        mean = self.mean(positions)
        return mean, self.log_std.exp().expand_as(mean)


def velocities(policy: nn.Module, parameters: list[Tensor], positions: Tensor) -> Normal:
    """Each task's policy at its positions: (tasks, n, 2)."""
    mean, std = call(policy, parameters, positions)
    return Normal(mean, std, validate_args=False)  # the line search may try what overflows


class Paths(NamedTuple):
    """What a policy did; a path begins at the origin, and ends at the goal or the horizon."""

    positions: Tensor  # (tasks, trajectories, horizon, 2)
    actions: Tensor  # the same: velocities as the policy wanted them
    rewards: Tensor  # (tasks, trajectories, horizon): minus the squared distance to the goal; 0 after the end
    going: Tensor  # the same: 1.0 up to the end, 0.0 after it


def advantages(paths: Paths, discount: float = 0.99) -> Tensor:
    """Rewards to come, less what a baseline expects of them that is fitted to the task's paths: (tasks, n).

    The baseline is linear in the features of Duan et al. 2016: position, its square, and powers of time.
    """
    hour = torch.arange(paths.rewards.shape[2], dtype=torch.float64) / 100
    gaps = 100 * (hour.unsqueeze(1) - hour)  # (later, now)
    to_come = paths.rewards.double() @ torch.where(gaps >= 0, discount**gaps, 0.0)
    time = torch.stack([hour**0, hour, hour**2, hour**3], 1).expand(*paths.rewards.shape, 4)
    features = torch.cat([paths.positions, paths.positions**2, time], 3).flatten(1, 2)  # (tasks, n, 8)
    going, target = paths.going.flatten(1).unsqueeze(2), to_come.flatten(1).unsqueeze(2)  # (tasks, n, 1)
    features = features * going
    squares = features.mT @ features + 1e-5 * torch.eye(features.shape[2], dtype=torch.float64)
    expected = features @ torch.linalg.solve(squares, features.mT @ target)
    found: Tensor = (target * going - expected).squeeze(2).to(paths.rewards.dtype)
    return found


def surrogate(policy: nn.Module, parameters: list[Tensor], paths: Paths) -> Tensor:
    """The loss of each task whose gradient is that of REINFORCE: (tasks,)."""
    policies = velocities(policy, parameters, paths.positions.flatten(1, 2))
    log_probabilities: Tensor = policies.log_prob(paths.actions.flatten(1, 2)).sum(2)
    return -(log_probabilities * advantages(paths)).sum(1) / paths.going.sum((1, 2))


def loss_by_ratios(old: Normal, new: Normal, paths: Paths) -> Tensor:
    """TRPO's surrogate loss of new policies on the paths of old ones, 0-d; at the old ones, `surrogate`'s gradient."""
    actions = paths.actions.flatten(1, 2)
    ratios: Tensor = (new.log_prob(actions) - old.log_prob(actions)).sum(2).exp()
    return -((ratios * advantages(paths)).sum(1) / paths.going.sum((1, 2))).mean()


def divergence(old: Normal, new: Normal, paths: Paths) -> Tensor:
    """Mean KL divergence of new policies from the old ones that walked the paths, in nats a time step: 0-d."""
    going = paths.going.flatten(1)
    return (kl_divergence(old, new).sum(2) * going).sum() / going.sum()


@dataclass(frozen=True)
class Navigation:
    """Walking to a goal in [-0.5, 0.5]^2: MAML, and fine-tuning a policy trained on all goals."""

    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Of initial policies, training goals, test goals and actions; at least two, for the intervals."""
    iterations: int = 30
    """Outer steps."""
    tasks: int = 20
    """Goals in an outer step."""
    trajectories: int = 20
    """Trajectories to a goal for a gradient step."""
    horizon: int = 100
    """Time steps of a trajectory that does not meet its goal."""
    inner_lr: float = 0.1
    """Learning rate of the first inner step, in training and, for MAML, at test time; later steps take half of it."""
    max_kl: float = 0.02
    """Most by which an outer step changes the adapted policies: their mean KL divergence, in nats a time step."""
    test_tasks: int = 100
    """Test goals of a seed, the same for all methods."""
    test_steps: int = 3
    """Gradient steps at test time."""
    pretrained_lrs: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0)
    """Learning rates at test time of the jointly trained policy, again of the first step."""
    output: str = "runs/navigation"
    """Folder for navigation.json and navigation.svg, which are replaced."""

    def run(self) -> None:
        """Trains and tests every method with every seed."""
        pyplot()  # says now if it is missing
        records = compare(self.train, self.test, self.seeds, self.inner_lr, self.pretrained_lrs)
        report(Path(self.output) / "navigation", self, records, "return", digits=2)

    def train(self, method: str, seed: int) -> nn.Module:
        """Algorithm 3 of the paper; with a seed, all methods start from the same policy."""
        generator = torch.Generator().manual_seed(seed)
        policy = Policy(generator)
        for _ in tqdm(range(self.iterations), desc=f"{method}, seed {seed}", disable=None):
            self.outer_step(policy, *METHODS[method], generator)
        return policy

    def outer_step(
        self, policy: nn.Module, inner_steps: int, second_order_steps: int, generator: torch.Generator
    ) -> None:
        """TRPO on the adapted policies; all goals of the step are one task, as in sinusoid.py.

        All paths are sampled before the sweep, which asks for the support loss again for its Hessian, and before the
        line search, which adapts anew from every initialisation it tries and must judge all of them by the same paths.
        """
        parameters, goals = copies(policy, self.tasks), self.draw_goals(self.tasks, generator)
        before = self.walk(policy, parameters, goals, generator)
        adapted = self.adapt(policy, before, inner_steps)
        after = self.walk(policy, adapted, goals, generator)
        task = Task(
            support=[lambda: surrogate(policy, parameters, before).sum()],
            query=[lambda: surrogate(policy, parameters, after).mean()],
            moving=parameters,
        )
        swept = sweep(task, [self.inner_lr] * inner_steps, second_order_steps)

        initial: list[Tensor] = [*policy.parameters()]
        few = Paths(*(part[:, :, ::10] for part in after))
        shifts = [there - here.detach() for there, here in zip(adapted, initial, strict=True)]

        def policies(parameters: list[Tensor], paths: Paths) -> Normal:
            return velocities(policy, parameters, paths.positions.flatten(1, 2))

        with torch.no_grad():
            old, old_few = policies(adapted, after), policies(adapted, few)

        def metric() -> Tensor:
            """How the adapted policies diverge as if adaptation took the same steps anew; at a tenth of the states."""
            shifted = [here + shift for here, shift in zip(initial, shifts, strict=True)]
            return divergence(old_few, policies(shifted, few), few)

        def judge() -> tuple[Tensor, Tensor]:
            new = policies(self.adapt(policy, before, inner_steps), after)
            return loss_by_ratios(old, new, after), divergence(old, new, after)

        trust_region_step(initial, [g.sum(0) for g in swept.gradients if g is not None], metric, judge, self.max_kl)

    @torch.no_grad()
    def adapt(self, policy: nn.Module, paths: Paths, steps: int) -> list[Tensor]:
        """Each task's parameters after the inner loop on its paths."""
        parameters = copies(policy, self.tasks)
        task = Task([lambda: surrogate(policy, parameters, paths).sum()], [], parameters)
        for _ in inner_loop(task, [[self.inner_lr] * len(parameters)] * steps):
            pass
        return parameters

    @torch.no_grad()
    def test(self, policy: nn.Module, rate: float, seed: int) -> dict[str, Tensor]:
        """Mean return for each test goal: (test_steps + 1, test_tasks)."""
        generator = torch.Generator().manual_seed(1_000_000 + seed)
        parameters, goals = copies(policy, self.test_tasks), self.draw_goals(self.test_tasks, generator)
        returns = []

        def support() -> Tensor:
            """New paths for each step, since none is taken back."""
            paths = self.walk(policy, parameters, goals, generator)
            returns.append(paths.rewards.sum(2).mean(1))
            return surrogate(policy, parameters, paths).sum()

        rates = [[rate if k == 0 else rate / 2] * len(parameters) for k in range(self.test_steps)]
        with in_scratch_memory(parameters):
            for _ in inner_loop(Task([support], [], parameters), rates):
                pass
            support()
        return {"navigation": torch.stack(returns)}

    def draw_goals(self, tasks: int, generator: torch.Generator) -> Tensor:
        """Goals of U[-0.5, 0.5]^2: (tasks, 1, 2)."""
        return torch.empty(tasks, 1, 2).uniform_(-0.5, 0.5, generator=generator)

    @torch.no_grad()
    def walk(self, policy: nn.Module, parameters: list[Tensor], goals: Tensor, generator: torch.Generator) -> Paths:
        """Samples trajectories of each task's policy."""
        position = torch.zeros(len(goals), self.trajectories, 2)
        going, steps = torch.ones(len(goals), self.trajectories), []
        for _ in range(self.horizon):
            wanted = velocities(policy, parameters, position)
            action = wanted.mean + wanted.stddev * torch.randn(position.shape, generator=generator)
            reached = position + SPEED * action.clamp(-1.0, 1.0)
            distance = (reached - goals).norm(dim=2)
            steps.append((position, action, -distance.square() * going, going))
            position, going = reached, going * (distance > 0.01)
        return Paths(*(torch.stack(column, 2) for column in zip(*steps, strict=True)))


if __name__ == "__main__":
    run_command(Navigation, sys.argv[1:], description=__doc__)
