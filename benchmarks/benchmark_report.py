"""Writes the report of the benchmarks, as Markdown and a plot, from the JSON files of the sections."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

INTRO = {
    "speed": """A run is one episode, from texts to the meta-gradient: 5 classes, 5 support texts each, 25 query
texts, linear head. "floor" is the time of the passes alone: K steps of in-place SGD over the same padded batch and
one query pass. Its weights are put back outside the timing. "x floor" is the median over the rounds of the ratio
within a round.

"agreement" is the relative distance |a - b| / |b| of a meta-gradient from its reference, on an episode with 8
tokens per text. The reference is the floor for first order, the row "graphs kept" for second order, and the row
without "nothing cached" for rows with it. Smaller scopes are compared in float64. The distance must be at most 1e-4
(1e-5 for caching); this is checked before the timing. Finite differences have no limit. The row "graphs kept" shows
its distance from first order, that is, the size of the second-order part. In rows "nothing cached", the layers
below the scope run at every inner step. "moves" is the share of the encoder's parameters that the inner loop moves.
The other libraries and the floor get ready batches. metatext starts from texts, whose token ids are in its cache.""",
    "memory": """Peak resident memory of one episode, in MB, over the memory before it (model and torch). Each
figure is from a fresh process with one malloc arena.""",
    "lengths": """Episodes of real texts, first order. The texts are new to metatext in every round. "padding" is
the share of padding among the support's tokens. Texts are cut at 128 tokens, or at 64 where they are padded to 64.""",
    "processes": """MetaTrainer under torchrun with Gloo, one thread per process. As many cores as processes must be
free.""",
    "adapt": """Fitting a classifier to a few texts. The Trainer's time includes loading the encoder. metatext's
learner is loaded once, and its texts are tokenised at the first fit, which is not timed.""",
    "limit": """torch.utils.flop_counter counts the GFLOP, of matrix products only. The rate of matmul is the best
over products of this model's sizes.""",
    "tries": """The floor's passes under an optimisation that metatext does not use. The first run, which compiles,
is not timed. An optimisation would be used if it were at least 1.2 times as fast.""",
    "precision": """The relative distance is |a - b| / |b| over the whole meta-gradient.""",
}
"""Introduction of each section."""


def machine(threads: int) -> dict[str, Any]:
    """Returns the processor, its cores, the number of threads, and the version of Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = models[0] if models else model
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "python": platform.python_version()}


def write_report(output: Path, order: list[str]) -> None:
    """Writes `benchmarks.md`, and `benchmarks.png` if matplotlib is installed, from the JSON files in `output`.

    Args:
        output: folder of the JSON files; the report is written into it.
        order: names of the sections, in the order of the report.
    """
    files = [path for section in order for path in sorted(output.glob(f"{section}*.json"))]
    results = [json.loads(path.read_text()) for path in files]
    lines = ["# Benchmarks", ""]
    last_setup = None
    for result in results:
        setup = {"machine": result["machine"], "versions": result["versions"]}
        if setup != last_setup:
            lines += [_describe(setup), ""]
            last_setup = setup
        if result["section"] not in [line[3:] for line in lines if line.startswith("## ")]:
            lines += [f"## {result['section']}", "", INTRO[result["section"]], ""]
        for caption, rows in result["tables"].items():
            lines += [f"### {caption}", "", *_table(caption, rows), ""]
    lines += [_plot(results, output / "benchmarks.png"), ""]
    (output / "benchmarks.md").write_text("\n".join(lines), encoding="utf-8")


def _describe(setup: dict[str, Any]) -> str:
    """Returns the line on the machine and the versions."""
    machine, versions = setup["machine"], setup["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"Machine: {machine['cpu']}, {machine['cores']} cores, {threads}; Python {machine['python']}. {packages}."


def _table(caption: str, rows: list[dict[str, Any]]) -> list[str]:
    """Returns the lines of a Markdown table. The seconds of every round are left out."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(_shown(row.get(name), name, caption) for name in columns) + " |" for row in rows]


def _shown(value: Any, column: str, caption: str) -> str:
    """Returns the value as text, with the digits that suit its column."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if column == "inner rate":
        return f"{value:g}"
    if "cosine" in caption:
        return f"{value:.5f}"
    if column == "agreement" or "distance" in caption:
        return f"{value:.1e}"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _plot(results: list[dict[str, Any]], path: Path) -> str:
    """Draws the ratios to the floor, one panel per table of speed; returns the report's line on the plot."""
    panels = [(c, rows) for result in results if result["section"] == "speed" for c, rows in result["tables"].items()]
    if not panels:
        return ""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        return "No plot: matplotlib is not installed."
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels) + 2, 6), sharey=True, squeeze=False)
    names = list(dict.fromkeys(row["method"] for _, rows in panels for row in rows))
    for axis, (caption, rows) in zip(axes[0], panels, strict=True):
        measured = [row for row in rows if "x floor" in row]
        metatext_rows = [row for row in measured if row["method"].startswith(("first order", "full MAML"))]
        for group, colour in ((measured, "0.6"), (metatext_rows, "tab:blue")):
            axis.barh([names.index(row["method"]) for row in group], [row["x floor"] for row in group], color=colour)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(caption.replace(", ", "\n", 1), fontsize=9)
        axis.set_xlabel("x floor")
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return f"![Ratios to the floor]({path.name})"
