"""Rounds over the methods, comparisons of meta-gradients, and fresh processes."""

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
from typing import Any

import torch
from torch import Tensor

from metatext import Episode

Gradients = dict[str, Tensor]
"""A meta-gradient by parameter name."""
Method = Any
"""An object with `prepare(episode)`, `run()` (the part that is timed), `restore()` and `to(dtype)`."""
Row = dict[str, Any]
Tables = dict[str, list[Row]]
"""Caption -> rows; all rows of a table have the same columns."""


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    repeats: int
    seconds: float
    texts: tuple[str, ...]


def rounds(
    methods: Mapping[str, Method], episodes: Sequence[Episode], repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each method in each round; every round runs all methods, on the next episode.

    Stops after `repeats` rounds, or after the third that ends later than `seconds`.
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
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rows(times: Mapping[str, list[float]], floor: str = "floor") -> list[dict[str, Any]]:
    """Table rows: medians over the rounds, of seconds and of the ratio to the floor in the same round."""
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


def relative(a: Gradients, b: Gradients) -> float:
    """|a - b| / |b| over the tensors that both have."""
    names = [name for name in b if name in a]
    difference = torch.stack([(a[n] - b[n]).norm() for n in names]).norm()
    return float(difference / torch.stack([b[n].norm() for n in names]).norm())


def cosine(a: Gradients, b: Gradients) -> float:
    """Cosine of two meta-gradients."""
    x, y = (torch.cat([g[name].flatten().double() for name in b]) for g in (a, b))
    return float(x @ y / (x.norm() * y.norm()))


# ------------------------------------------------------------------------------------------- a process of its own
def worker(*words: Any, launcher: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> Any:
    """The result of `run.py --worker ...` in a fresh process."""
    script = str(Path(__file__).with_name("speed_and_memory.py"))
    own = {"ACCELERATE_USE_CPU": "true"}  # without it torchrun's processes would not know of each other
    command = [sys.executable, *(launcher or ()), script, "--worker", *map(str, words)]
    done = subprocess.run(
        command, env=os.environ | own | (environment or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
