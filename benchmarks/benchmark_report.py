"""The report: Markdown and a plot from the sections' JSON files that are there."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

INTRO = {
    "speed": """One episode, texts to meta-gradient: 5 classes, 5 support texts each, 25 query texts, linear head.
"floor" is the passes alone: K steps of SGD in place over the same padded batch and one query pass; its weights are put
back outside the timing. "x floor" is the median over the rounds of the ratio within a round.

"agreement" is the relative distance |a - b| / |b| of the meta-gradient from the floor's (first order), from that of the
graphs-kept row (second order), or from the row without "nothing cached", for an episode of 8 tokens a text; for smaller
scopes in float64. Before anything is timed it is checked to be at most 1e-4, and 1e-5 for caching; differences are only
shown. In the graphs-kept row it is the distance from first order: what is at stake. "nothing cached" runs the lower
layers at every step. "moves" is the share of the encoder's parameters that the inner loop moves. The peers and the
floor are given ready batches; metatext starts from texts, whose token ids it remembers.""",
    "memory": """Peak resident memory of one episode over what is resident before it (the model, torch), in MB; a fresh
process each, one malloc arena.""",
    "lengths": """Episodes of real texts, first order; the texts are new to metatext in every round. "padding" is the
share of the support's tokens that are padding; texts are cut at 128 tokens, or at 64 where they are padded to 64.""",
    "processes": """MetaTrainer under torchrun, one thread each, Gloo. It needs as many free cores as processes.""",
    "adapt": """A classifier from a few texts. The Trainer's time includes loading the encoder; metatext's learner is
loaded once, and its texts are tokenised at the first fit, which is not timed.""",
    "limit": """GFLOP are counted by torch.utils.flop_counter: matrix products only. The rate of matmul is the best of
products of this model's sizes.""",
    "tries": """The floor's passes in another form, after one run that compiles. It would be used if it gained 1.2
or more.""",
    "precision": """The relative distance is |a - b| / |b| over the whole meta-gradient.""",
}


def machine(threads: int) -> dict[str, Any]:
    """The processor, its cores, and how many threads were used."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = found[0] if found else model
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "python": platform.python_version()}


def write_report(output: Path, order: list[str]) -> None:
    """`benchmarks.md`, and `benchmarks.png` where matplotlib is there, from the JSON files in `output`."""
    files = [path for section in order for path in sorted(output.glob(f"{section}*.json"))]
    results = [json.loads(path.read_text()) for path in files]
    lines = ["# Benchmarks", ""]
    seen = None
    for result in results:
        where = {"machine": result["machine"], "versions": result["versions"]}
        if where != seen:
            lines += [_describe(where), ""]
            seen = where
        if result["section"] not in [line[3:] for line in lines if line.startswith("## ")]:
            lines += [f"## {result['section']}", "", INTRO[result["section"]], ""]
        for caption, rows in result["tables"].items():
            lines += [f"### {caption}", "", *_table(caption, rows), ""]
    lines += [_plot(results, output / "benchmarks.png"), ""]
    (output / "benchmarks.md").write_text("\n".join(lines), encoding="utf-8")


def _describe(where: dict[str, Any]) -> str:
    machine, versions = where["machine"], where["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"Machine: {machine['cpu']}, {machine['cores']} cores, {threads}; Python {machine['python']}. {packages}."


def _table(caption: str, rows: list[dict[str, Any]]) -> list[str]:
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(_shown(row.get(name), name, caption) for name in columns) + " |" for row in rows]


def _shown(value: Any, column: str, caption: str) -> str:
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
    """Bars of the ratio to the floor, one panel a speed table; returns what the report says of it."""
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
        ours = [row for row in measured if row["method"].startswith(("first order", "full MAML"))]
        for group, colour in ((measured, "0.6"), (ours, "tab:blue")):
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
