"""Regress sine curves from a few points: section 5.1 of the MAML paper (Finn, Abbeel and Levine, 2017).

    OMP_NUM_THREADS=1 python recipes/maml_paper/sinusoid.py

takes about 15 minutes on one core and writes runs/sinusoid/sinusoid.json and .svg. A first look in a minute:

    OMP_NUM_THREADS=1 python recipes/maml_paper/sinusoid.py --iterations 3000 --seeds 0 1
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from experiment_report import METHODS, compare, report
from stacked_tasks import call, copies, set_gradients
from torch import Tensor, nn
from tqdm import tqdm

from metatext.cli.runner import run_command
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Task
from metatext.evaluation.plot import pyplot
from metatext.maml import sweep


class Points(NamedTuple):
    """Points on the curve of each task, both (tasks, points, 1)."""

    x: Tensor
    y: Tensor


class Sines(NamedTuple):
    """The sine curve of each task, both (tasks, 1, 1)."""

    amplitude: Tensor
    phase: Tensor

    @staticmethod
    def draw(tasks: int, generator: torch.Generator) -> Sines:
        """Amplitudes of U[0.1, 5], phases of U[0, pi]."""
        amplitude, phase = torch.empty(2, tasks, 1, 1)
        return Sines(
            amplitude.uniform_(0.1, 5.0, generator=generator), phase.uniform_(0, torch.pi, generator=generator)
        )

    def points(self, number: int, generator: torch.Generator) -> Points:
        """Points with x of U[-5, 5]."""
        x = torch.empty(len(self.phase), number, 1).uniform_(-5.0, 5.0, generator=generator)
        return Points(x, self.amplitude * (x - self.phase).sin())


def make_net(generator: torch.Generator) -> nn.Sequential:
    """1-40-40-1 with ReLU, initialised as in the paper's code."""
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    for parameter in net.parameters():
        if parameter.dim() == 2:
            nn.init.trunc_normal_(parameter, std=0.01, a=-0.02, b=0.02, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return net


def squared_errors(net: nn.Module, parameters: list[Tensor], points: Points) -> Tensor:
    """Each task's mean squared error under its own copy of the net's parameters: (tasks,)."""
    predictions: Tensor = call(net, parameters, points.x)
    return (predictions - points.y).square().mean((1, 2))


def stack(net: nn.Module, support: Points, query: Points) -> Task:
    """All tasks of a meta-batch as one, with a copy of the net's parameters for each: (tasks, *shape).

    The support losses are added up, so that each copy moves by the gradient of its own task's loss; the meta-gradient
    of the net is the sum of those of the copies.
    """
    parameters = copies(net, len(support.x))
    return Task(
        support=[lambda: squared_errors(net, parameters, support).sum()],
        query=[lambda: squared_errors(net, parameters, query).mean()],
        moving=parameters,
    )


@dataclass(frozen=True)
class Sinusoid:
    """Regression of sine curves from a few points: MAML, and fine-tuning a net trained on the points of all curves."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of initial nets, training tasks and test tasks; at least two, for the intervals."""
    iterations: int = 20_000
    """Outer steps."""
    tasks: int = 25
    """Tasks in an outer step."""
    points: int = 10
    """Support points of a task in training, and as many query points."""
    inner_lr: float = 0.01
    """Learning rate of the inner loop, in training and, for MAML, at test time."""
    outer_lr: float = 1e-3
    """Learning rate of the outer loop's Adam."""
    test_tasks: int = 600
    """Test tasks of a seed, the same for all methods."""
    test_points: tuple[int, ...] = (5, 10)
    """Numbers of support points of a test task."""
    test_steps: int = 10
    """Gradient steps at test time."""
    pretrained_lrs: tuple[float, ...] = (0.01, 0.02)
    """Learning rates at test time of the jointly trained net."""
    output: str = "runs/sinusoid"
    """Folder for sinusoid.json and sinusoid.svg, which are replaced."""

    def run(self) -> None:
        """Trains and tests every method with every seed."""
        pyplot()  # says now if it is missing
        records = compare(self.train, self.test, self.seeds, self.inner_lr, self.pretrained_lrs)
        report(Path(self.output) / "sinusoid", self, records, "mean squared error", digits=2)

    def train(self, method: str, seed: int) -> nn.Module:
        """Algorithm 2 of the paper; with a seed, all methods start from the same net and see the same tasks."""
        generator = torch.Generator().manual_seed(seed)
        net = make_net(generator)
        optimizer = torch.optim.Adam(net.parameters(), self.outer_lr)
        inner_steps, second_order_steps = METHODS[method]
        for _ in tqdm(range(self.iterations), desc=f"{method}, seed {seed}", disable=None):
            sines = Sines.draw(self.tasks, generator)
            task = stack(net, sines.points(self.points, generator), sines.points(self.points, generator))
            swept = sweep(task, [self.inner_lr] * inner_steps, second_order_steps)
            set_gradients(net, swept.gradients)
            optimizer.step()
        return net

    @torch.no_grad()
    def test(self, net: nn.Module, rate: float, seed: int) -> dict[str, Tensor]:
        """Squared errors on 100 other points of each test task, (test_steps + 1, test_tasks), by number of points."""
        generator = torch.Generator().manual_seed(1_000_000 + seed)
        sines, found = Sines.draw(self.test_tasks, generator), {}
        query = sines.points(100, generator)
        for number in self.test_points:
            task = stack(net, sines.points(number, generator), query)
            with in_scratch_memory(task.moving):
                errors = [squared_errors(net, task.moving, query)]
                for _ in inner_loop(task, [[rate] * len(task.moving)] * self.test_steps):
                    errors.append(squared_errors(net, task.moving, query))
            found[f"{number} points"] = torch.stack(errors)
        return found


if __name__ == "__main__":
    run_command(Sinusoid, sys.argv[1:], description=__doc__)
