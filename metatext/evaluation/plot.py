"""Draws figures as SVG files; needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.files import new_file


def pyplot() -> Any:
    """Imports matplotlib.pyplot, set up to draw to files without a display.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("the figure needs matplotlib, which is not installed: pip install 'metatext[plot]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "metatext"  # fixes the random ids, so that equal figures are equal files
    import matplotlib.pyplot

    return matplotlib.pyplot


def save_figure(path: Path, sheet: Any) -> None:
    """Writes a figure of `pyplot` as SVG without its date, so that equal figures are equal files, and closes it."""
    with new_file(path) as beside:
        sheet.savefig(beside, format="svg", metadata={"Date": None})
    pyplot().close(sheet)


def draw_band(axes: Any, x: Sequence[float], mean: Sequence[float], half: Sequence[float], label: str) -> None:
    """Draws a line of `mean`, in per cent, with a band of half-width `half`; both are shares from 0 to 1."""
    (drawn,) = axes.plot(x, [100 * value for value in mean], marker="o", markersize=3, label=label)
    low, high = ([100 * (m + sign * h) for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def plot_accuracy(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Plots accuracy against the number of shots, a line per method with a band of its 95% confidence interval.

    Args:
        path: the SVG file to write.
        rows: the rows that `report.summarise` returns.
    """
    plt = pyplot()
    sheet, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        line = sorted((row for row in rows if row["method"] == method), key=lambda row: row["shots"])
        mean, half = ([row[key] for row in line] for key in ("accuracy", "accuracy_ci95"))
        draw_band(axes, [row["shots"] for row in line], mean, half, method)
    shots = sorted({row["shots"] for row in rows})
    axes.set(xlabel="labelled texts of a class", ylabel="accuracy, %")
    if 0 in shots:
        axes.set_xscale("symlog", linthresh=1)  # linear from 0 to 1
    else:
        axes.set_xscale("log")
    axes.set_xticks(shots, labels=map(str, shots))
    axes.minorticks_off()
    axes.legend(fontsize="small")
    save_figure(path, sheet)
