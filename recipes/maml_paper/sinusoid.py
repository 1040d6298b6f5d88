"""Reproduces the sinusoid regression of the MAML paper, section 5.1 (Finn, Abbeel and Levine, 2017).

    OMP_NUM_THREADS=1 python recipes/maml_paper/sinusoid.py

A task is a sine curve, of which the net sees a few points.

The command takes about 15 minutes on one core and writes runs/sinusoid/sinusoid.json and sinusoid.svg. A first look in
a minute:

    OMP_NUM_THREADS=1 python recipes/maml_paper/sinusoid.py --iterations 3000 --seeds 0 1
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from experiment_report import METHODS, compare, write_report
from stacked_tasks import call_per_task, parameter_copies, set_gradients
from torch import Tensor, nn
from tqdm import tqdm

from metatext.cli.runner import run_command
from metatext.core.in_place import in_scratch_memory
from metatext.core.inner_loop import inner_loop
from metatext.core.task import Task
from metatext.evaluation.plot import pyplot
from metatext.maml import sweep


class Points(NamedTuple):
    """Points on the curve of each task. Both fields are (tasks, points, 1)."""

    x: Tensor
    y: Tensor


class Sines(NamedTuple):
    """The sine curve of each task. Both fields are (tasks, 1, 1)."""

    amplitude: Tensor
    phase: Tensor

    @staticmethod
    def draw(tasks: int, generator: torch.Generator) -> Sines:
        """Draws amplitudes from U[0.1, 5] and phases from U[0, pi]."""
        amplitude, phase = torch.empty(2, tasks, 1, 1)
        return Sines(
            amplitude.uniform_(0.1, 5.0, generator=generator), phase.uniform_(0, torch.pi, generator=generator)
        )

    def points(self, number: int, generator: torch.Generator) -> Points:
        """Draws `number` points on each curve, with x from U[-5, 5]."""
        x = torch.empty(len(self.phase), number, 1).uniform_(-5.0, 5.0, generator=generator)
        return Points(x, self.amplitude * (x - self.phase).sin())


def make_net(generator: torch.Generator) -> nn.Sequential:
    """Returns a 1-40-40-1 net with ReLU, initialised as in the paper's code."""
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    for parameter in net.parameters():
        if parameter.dim() == 2:
            nn.init.trunc_normal_(parameter, std=0.01, a=-0.02, b=0.02, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return net


def squared_errors(net: nn.Module, parameters: list[Tensor], points: Points) -> Tensor:
    """Returns each task's mean squared error, (tasks,), under its own copy of the net's parameters."""
    predictions: Tensor = call_per_task(net, parameters, points.x)
    return (predictions - points.y).square().mean((1, 2))


def stacked_task(net: nn.Module, support: Points, query: Points) -> Task:
    """Returns all tasks of a meta-batch as one task, in which each has its own copy of the parameters.

    The support loss is the sum over the tasks, so that each copy moves by the gradient of its own task's loss. The
    meta-gradient of the net is the sum of the meta-gradients of the copies, (tasks, *shape).
    """
    parameters = parameter_copies(net, len(support.x))
    return Task(
        support=[lambda: squared_errors(net, parameters, support).sum()],
        query=[lambda: squared_errors(net, parameters, query).mean()],
        moving=parameters,
    )


@dataclass(frozen=True)
class Sinusoid:
    """Compares MAML with joint pre-training on sinusoid regression: fine-tune a net to a few points of a curve."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Random seeds of initial nets and tasks. At least two are needed for the confidence intervals."""
    iterations: int = 20_000
    """Number of outer steps."""
    tasks: int = 25
    """Tasks per outer step."""
    points: int = 10
    """Support points of a training task. It has as many query points."""
    inner_lr: float = 0.01
    """Learning rate of the inner loop in training and in the tests of MAML."""
    outer_lr: float = 1e-3
    """Learning rate of Adam in the outer loop."""
    test_tasks: int = 600
    """Test tasks per seed. They are the same for all methods."""
    test_points: tuple[int, ...] = (5, 10)
    """Numbers of support points of a test task. Each gives a table section and a plot."""
    test_steps: int = 10
    """Number of gradient steps at test time."""
    pretrained_lrs: tuple[float, ...] = (0.01, 0.02)
    """Learning rates at test time for joint pre-training."""
    output: str = "runs/sinusoid"
    """Output folder. Existing sinusoid.json and sinusoid.svg in it are replaced."""

    def run(self) -> None:
        """Trains and tests every method with every seed, then writes the results and prints the table."""
        pyplot()  # fails before the training if matplotlib is missing
        records = compare(self.train, self.test, self.seeds, self.inner_lr, self.pretrained_lrs)
        write_report(Path(self.output) / "sinusoid", self, records, "mean squared error", digits=2)

    def train(self, method: str, seed: int) -> nn.Module:
        """Meta-trains a net (algorithm 2 of the paper). Equal seeds give all methods the same initial net and tasks."""
        generator = torch.Generator().manual_seed(seed)
        net = make_net(generator)
        optimizer = torch.optim.Adam(net.parameters(), self.outer_lr)
        inner_steps, second_order_steps = METHODS[method]
        for _ in tqdm(range(self.iterations), desc=f"{method}, seed {seed}", disable=None):
            sines = Sines.draw(self.tasks, generator)
            task = stacked_task(net, sines.points(self.points, generator), sines.points(self.points, generator))
            swept = sweep(task, [self.inner_lr] * inner_steps, second_order_steps)
            set_gradients(net, swept.gradients)
            optimizer.step()
        return net

    @torch.no_grad()
    def test(self, net: nn.Module, rate: float, seed: int) -> dict[str, Tensor]:
        """Returns mean squared errors after 0, 1, ... gradient steps, by number of support points.

        Each tensor is (test_steps + 1, test_tasks). The errors are on 100 query points of each test task.
        """
        generator = torch.Generator().manual_seed(1_000_000 + seed)
        sines, results = Sines.draw(self.test_tasks, generator), {}
        query = sines.points(100, generator)
        for number in self.test_points:
            task = stacked_task(net, sines.points(number, generator), query)
            with in_scratch_memory(task.moving):
                errors = [squared_errors(net, task.moving, query)]
                for _ in inner_loop(task, [[rate] * len(task.moving)] * self.test_steps):
                    errors.append(squared_errors(net, task.moving, query))
            results[f"{number} points"] = torch.stack(errors)
        return results


if __name__ == "__main__":
    run_command(Sinusoid, sys.argv[1:], description=__doc__)
