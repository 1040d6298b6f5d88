"""Times methods in rounds, compares meta-gradients, and runs measurements in fresh processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from metatext import Episode

Gradients = dict[str, Tensor]
"""A meta-gradient by parameter name."""
Row = dict[str, Any]
"""A row of a table: column -> value."""
Tables = dict[str, list[Row]]
"""Caption -> rows of the table."""


class Method(Protocol):
    """A way to compute a meta-gradient. Only `run` is timed."""

    def prepare(self, episode: Episode) -> None:
        """Sets the episode of the next run."""

    def run(self) -> Gradients:
        """Computes the meta-gradient of the episode."""

    def restore(self) -> None:
        """Undoes changes of the weights that the run has made."""


@dataclass(frozen=True)
class Options:
    """Options of the command line that the sections use."""

    repeats: int
    """Maximal number of rounds."""
    seconds: float
    """Time after which no further round begins, from the fourth round on."""
    texts: tuple[str, ...]
    """Files of labelled texts for the section lengths; the demo corpus if empty."""


def rounds(
    methods: Mapping[str, Method], episodes: Sequence[Episode], repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Times methods in rounds. Each round runs all methods once on the same episode.

    Args:
        methods: methods by name.
        episodes: round i uses episode i, modulo their number.
        repeats: maximal number of rounds.
        seconds: no further round begins after this time, from the fourth round on.

    Returns:
        The seconds of each method in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    started = time.perf_counter()
    for number in range(repeats):
        if number >= 3 and time.perf_counter() - started > seconds:
            break
        for name, method in methods.items():
            method.prepare(episodes[number % len(episodes)])
            times[name].append(timed(method.run))
            method.restore()
    return times


def timed(function: Callable[[], Any]) -> float:
    """Returns the seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rows(times: Mapping[str, list[float]], floor: str = "floor") -> list[Row]:
    """Returns a table row per method: the median time and the median ratio to the floor of the same round.

    Args:
        times: seconds of each method in each round, as `rounds` returns them.
        floor: name of the method to which the others are compared.
    """
    return [
        {
            "method": name,
            "ms": 1e3 * statistics.median(each),
            "x floor": statistics.median(t / f for t, f in zip(each, times[floor], strict=True)),
            "rounds": len(each),
            "seconds": each,
        }
        for name, each in times.items()
    ]


def relative_distance(a: Gradients, b: Gradients) -> float:
    """Returns |a - b| / |b|, computed over the tensors that both meta-gradients have."""
    names = [name for name in b if name in a]
    difference = torch.stack([(a[n] - b[n]).norm() for n in names]).norm()
    return float(difference / torch.stack([b[n].norm() for n in names]).norm())


def cosine(a: Gradients, b: Gradients) -> float:
    """Returns the cosine similarity of two meta-gradients."""
    x, y = (torch.cat([g[name].flatten().double() for name in b]) for g in (a, b))
    return float(x @ y / (x.norm() * y.norm()))


def run_worker(*words: Any, launcher: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> Any:
    """Runs `speed_and_memory.py --worker WORDS` in a fresh process and returns its result.

    Args:
        words: name of the measurement (memory or processes) and its arguments.
        launcher: arguments of Python before the script, such as those that start torchrun.
        environment: environment variables in addition to those of this process.

    Raises:
        RuntimeError: the process failed.
    """
    script = str(Path(__file__).with_name("speed_and_memory.py"))
    own = {"ACCELERATE_USE_CPU": "true"}  # without it, the processes of torchrun do not form a group
    command = [sys.executable, *(launcher or ()), script, "--worker", *map(str, words)]
    done = subprocess.run(
        command, env=os.environ | own | (environment or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
