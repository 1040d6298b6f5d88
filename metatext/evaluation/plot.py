"""Figures, for which the extra `plot` installs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.files import new_file


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("the figure needs matplotlib, which is not installed: pip install 'metatext[plot]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "metatext"  # equal figures are equal files
    import matplotlib.pyplot

    return matplotlib.pyplot


def save_figure(path: Path, sheet: Any) -> None:
    """Writes a figure of `pyplot` as SVG, equal figures as equal files, and closes it."""
    with new_file(path) as beside:
        sheet.savefig(beside, format="svg", metadata={"Date": None})
    pyplot().close(sheet)


def draw_band(axes: Any, x: Sequence[float], mean: Sequence[float], half: Sequence[float], label: str) -> None:
    """A line of shares, in per cent, within the band of half a width on both sides."""
    (drawn,) = axes.plot(x, [100 * value for value in mean], marker="o", markersize=3, label=label)
    low, high = ([100 * (m + sign * h) for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def plot_accuracy(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy of every method against the labelled texts of a class, in bands of 95% confidence.

    Args:
        path: the SVG file.
        rows: of `report.summarise`.
    """
    plt = pyplot()
    sheet, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        line = sorted((row for row in rows if row["method"] == method), key=lambda row: row["shots"])
        mean, half = ([row[key] for row in line] for key in ("accuracy", "accuracy_ci95"))
        draw_band(axes, [row["shots"] for row in line], mean, half, method)
    every = sorted({row["shots"] for row in rows})
    axes.set(xscale="log", xlabel="labelled texts of a class", ylabel="accuracy, %")
    axes.set_xticks(every, labels=map(str, every))
    axes.minorticks_off()
    axes.legend(fontsize="small")
    save_figure(path, sheet)
