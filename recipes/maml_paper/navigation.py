"""Reproduces the 2-d navigation of the MAML paper, section 5.3 (Finn, Abbeel and Levine, 2017).

    OMP_NUM_THREADS=1 python recipes/maml_paper/navigation.py

A task is a goal in the plane. The agent learns where the goal is from its rewards only.

The command takes about 20 minutes on one core and writes runs/navigation/navigation.json and navigation.svg. A first
look in a minute:

    OMP_NUM_THREADS=1 python recipes/maml_paper/navigation.py --iterations 20 --tasks 10 --seeds 0 1
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from experiment_report import METHODS, compare, write_report
from stacked_tasks import call_per_task, parameter_copies
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

MAX_SPEED = 0.1  # maximal distance along each axis in one time step


class Policy(nn.Module):
    """A Gaussian policy: its mean velocity, in units of MAX_SPEED, is a 2-100-100-2 net of the position."""

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
        last.weight.data *= 0.01  # keeps the first trajectories near the origin

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation of the velocity, both (n, 2), at positions (n, 2)."""
        mean = self.mean(positions)
        return mean, self.log_std.exp().expand_as(mean)


def action_distribution(policy: nn.Module, parameters: list[Tensor], positions: Tensor) -> Normal:
    """Returns the distribution of each task's velocities at its positions, (tasks, n, 2)."""
    mean, std = call_per_task(policy, parameters, positions)
    return Normal(mean, std, validate_args=False)  # the line search may try policies that overflow


class Trajectories(NamedTuple):
    """Trajectories of each task's policy. A trajectory begins at the origin and ends at the goal or at the horizon."""

    positions: Tensor  # (tasks, trajectories, horizon, 2)
    actions: Tensor  # (tasks, trajectories, horizon, 2): sampled velocities in units of MAX_SPEED, not clipped
    rewards: Tensor  # (tasks, trajectories, horizon): minus the squared distance to the goal; 0 after the end
    active: Tensor  # (tasks, trajectories, horizon): 1.0 up to the end of the trajectory, 0.0 after it


def advantages(trajectories: Trajectories, discount: float = 0.99) -> Tensor:
    """Returns the advantage of each time step, (tasks, n): the discounted return from it minus a baseline.

    The baseline is a ridge regression on the features of Duan et al. 2016: position, its square, and powers of time.
    It is fitted to each task's own trajectories. n is the number of trajectories times the horizon.
    """
    time = torch.arange(trajectories.rewards.shape[2], dtype=torch.float64) / 100
    delays = 100 * (time.unsqueeze(1) - time)  # (later step, present step), in time steps
    returns = trajectories.rewards.double() @ torch.where(delays >= 0, discount**delays, 0.0)
    powers = torch.stack([time**0, time, time**2, time**3], 1).expand(*trajectories.rewards.shape, 4)
    features = torch.cat([trajectories.positions, trajectories.positions**2, powers], 3).flatten(1, 2)  # (tasks, n, 8)
    active, target = trajectories.active.flatten(1).unsqueeze(2), returns.flatten(1).unsqueeze(2)  # (tasks, n, 1)
    features = features * active
    gram = features.mT @ features + 1e-5 * torch.eye(features.shape[2], dtype=torch.float64)
    baseline = features @ torch.linalg.solve(gram, features.mT @ target)
    advantage: Tensor = (target * active - baseline).squeeze(2).to(trajectories.rewards.dtype)
    return advantage


def reinforce_loss(policy: nn.Module, parameters: list[Tensor], trajectories: Trajectories) -> Tensor:
    """Returns each task's loss, (tasks,), whose gradient is the policy gradient of REINFORCE."""
    policies = action_distribution(policy, parameters, trajectories.positions.flatten(1, 2))
    log_probabilities: Tensor = policies.log_prob(trajectories.actions.flatten(1, 2)).sum(2)
    return -(log_probabilities * advantages(trajectories)).sum(1) / trajectories.active.sum((1, 2))


def importance_ratio_loss(old: Normal, new: Normal, trajectories: Trajectories) -> Tensor:
    """Returns TRPO's surrogate loss of new policies on trajectories of old ones, 0-d, by importance ratios.

    At the old policies, its gradient equals that of the mean of `reinforce_loss`.
    """
    actions = trajectories.actions.flatten(1, 2)
    ratios: Tensor = (new.log_prob(actions) - old.log_prob(actions)).sum(2).exp()
    return -((ratios * advantages(trajectories)).sum(1) / trajectories.active.sum((1, 2))).mean()


def mean_kl(old: Normal, new: Normal, trajectories: Trajectories) -> Tensor:
    """Returns the mean KL divergence of new policies from the sampled, old ones, in nats per time step, 0-d."""
    active = trajectories.active.flatten(1)
    return (kl_divergence(old, new).sum(2) * active).sum() / active.sum()


@dataclass(frozen=True)
class Navigation:
    """Compares MAML with joint pre-training on 2-d navigation: fine-tune a policy to reach a goal in [-0.5, 0.5]^2."""

    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Random seeds of initial policies, goals and actions. At least two are needed for the confidence intervals."""
    iterations: int = 30
    """Number of outer steps."""
    tasks: int = 20
    """Goals per outer step."""
    trajectories: int = 20
    """Trajectories per goal and gradient step."""
    horizon: int = 100
    """Maximal length of a trajectory in time steps."""
    inner_lr: float = 0.1
    """Learning rate of the first inner step in training and in the tests of MAML. Later test steps take half of it."""
    max_kl: float = 0.02
    """Limit on the mean KL divergence of the adapted policies in one outer step, in nats per time step."""
    test_tasks: int = 100
    """Test goals per seed. They are the same for all methods."""
    test_steps: int = 3
    """Number of gradient steps at test time."""
    pretrained_lrs: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0)
    """Learning rates of the first test step for joint pre-training. Later test steps take half of them."""
    output: str = "runs/navigation"
    """Output folder. Existing navigation.json and navigation.svg in it are replaced."""

    def run(self) -> None:
        """Trains and tests every method with every seed, then writes the results and prints the table."""
        pyplot()  # fails before the training if matplotlib is missing
        records = compare(self.train, self.test, self.seeds, self.inner_lr, self.pretrained_lrs)
        write_report(Path(self.output) / "navigation", self, records, "return", digits=2)

    def train(self, method: str, seed: int) -> nn.Module:
        """Meta-trains a policy (algorithm 3 of the paper). Equal seeds give all methods the same initial policy."""
        generator = torch.Generator().manual_seed(seed)
        policy = Policy(generator)
        for _ in tqdm(range(self.iterations), desc=f"{method}, seed {seed}", disable=None):
            self.outer_step(policy, *METHODS[method], generator)
        return policy

    def outer_step(
        self, policy: nn.Module, inner_steps: int, second_order_steps: int, generator: torch.Generator
    ) -> None:
        """Takes one step of TRPO on the adapted policies. The goals of the step are stacked into one task.

        All trajectories are sampled first, because the sweep evaluates the support loss again for its Hessian, and the
        line search must compare all initialisations on the same trajectories.

        The metric of the natural gradient treats adaptation as a constant shift of the parameters, so that it needs no
        second derivatives of the inner step. It uses every tenth time step. The line search adapts exactly.
        """
        parameters, goals = parameter_copies(policy, self.tasks), self.draw_goals(self.tasks, generator)
        support = self.sample_trajectories(policy, parameters, goals, generator)
        adapted = self.adapt(policy, support, inner_steps)
        query = self.sample_trajectories(policy, adapted, goals, generator)
        task = Task(
            support=[lambda: reinforce_loss(policy, parameters, support).sum()],
            query=[lambda: reinforce_loss(policy, parameters, query).mean()],
            moving=parameters,
        )
        swept = sweep(task, [self.inner_lr] * inner_steps, second_order_steps)

        initial: list[Tensor] = [*policy.parameters()]
        subset = Trajectories(*(part[:, :, ::10] for part in query))
        shifts = [after - before.detach() for after, before in zip(adapted, initial, strict=True)]

        def distribution(parameters: list[Tensor], trajectories: Trajectories) -> Normal:
            return action_distribution(policy, parameters, trajectories.positions.flatten(1, 2))

        with torch.no_grad():
            old, old_subset = distribution(adapted, query), distribution(adapted, subset)

        def metric() -> Tensor:
            shifted = [parameter + shift for parameter, shift in zip(initial, shifts, strict=True)]
            return mean_kl(old_subset, distribution(shifted, subset), subset)

        def loss_and_divergence() -> tuple[Tensor, Tensor]:
            new = distribution(self.adapt(policy, support, inner_steps), query)
            return importance_ratio_loss(old, new, query), mean_kl(old, new, query)

        gradient = [g.sum(0) for g in swept.gradients if g is not None]
        trust_region_step(initial, gradient, metric, loss_and_divergence, self.max_kl)

    @torch.no_grad()
    def adapt(self, policy: nn.Module, trajectories: Trajectories, steps: int) -> list[Tensor]:
        """Returns each task's parameters, (tasks, *shape), after the inner loop on its trajectories."""
        parameters = parameter_copies(policy, self.tasks)
        task = Task([lambda: reinforce_loss(policy, parameters, trajectories).sum()], [], parameters)
        for _ in inner_loop(task, [[self.inner_lr] * len(parameters)] * steps):
            pass
        return parameters

    @torch.no_grad()
    def test(self, policy: nn.Module, rate: float, seed: int) -> dict[str, Tensor]:
        """Returns the mean return for each test goal after 0, 1, ... gradient steps, (test_steps + 1, test_tasks)."""
        generator = torch.Generator().manual_seed(1_000_000 + seed)
        parameters, goals = parameter_copies(policy, self.test_tasks), self.draw_goals(self.test_tasks, generator)
        returns = []

        def support() -> Tensor:
            """Samples new trajectories for each step and records their returns."""
            trajectories = self.sample_trajectories(policy, parameters, goals, generator)
            returns.append(trajectories.rewards.sum(2).mean(1))
            return reinforce_loss(policy, parameters, trajectories).sum()

        rates = [[rate if k == 0 else rate / 2] * len(parameters) for k in range(self.test_steps)]
        with in_scratch_memory(parameters):
            for _ in inner_loop(Task([support], [], parameters), rates):
                pass
            support()
        return {"navigation": torch.stack(returns)}

    def draw_goals(self, tasks: int, generator: torch.Generator) -> Tensor:
        """Draws goals from U[-0.5, 0.5]^2, (tasks, 1, 2)."""
        return torch.empty(tasks, 1, 2).uniform_(-0.5, 0.5, generator=generator)

    @torch.no_grad()
    def sample_trajectories(
        self, policy: nn.Module, parameters: list[Tensor], goals: Tensor, generator: torch.Generator
    ) -> Trajectories:
        """Samples trajectories of each task's policy to its goal."""
        position = torch.zeros(len(goals), self.trajectories, 2)
        active, steps = torch.ones(len(goals), self.trajectories), []
        for _ in range(self.horizon):
            velocity = action_distribution(policy, parameters, position)
            action = velocity.mean + velocity.stddev * torch.randn(position.shape, generator=generator)
            next_position = position + MAX_SPEED * action.clamp(-1.0, 1.0)
            distance = (next_position - goals).norm(dim=2)
            steps.append((position, action, -distance.square() * active, active))
            position, active = next_position, active * (distance > 0.01)
        return Trajectories(*(torch.stack(column, 2) for column in zip(*steps, strict=True)))


if __name__ == "__main__":
    run_command(Navigation, sys.argv[1:], description=__doc__)
