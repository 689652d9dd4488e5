"""Line plots as PNG: figures with intervals over a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from saeuron.files import atomic_path


class Curve(NamedTuple):
    """One line."""

    name: str
    points: Sequence[tuple[int, float, float, float]]
    """(x, value, low, high), fractions."""
    colour: str
    dashed: bool = False


def curve_plot(panels: Sequence[tuple[str, Sequence[Curve]]], across: str, title: str, path: Path) -> Path:
    """A PNG with a panel for each (name, curves), side by side, in percent; returns `path`.

    Args:
        across: what x is.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, found = pyplot.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.9), dpi=110, layout="constrained", sharey=True, squeeze=False
    )
    for axes, (name, curves) in zip(found[0], panels, strict=True):
        for i, curve in enumerate(curves):
            # A little apart, so that intervals at one x can be told from each other.
            x = [p[0] + 0.06 * (i - (len(curves) - 1) / 2) for p in curve.points]
            value, low, high = ([100 * p[k] for p in curve.points] for k in (1, 2, 3))
            axes.vlines(x, low, high, color=curve.colour, linewidth=1, alpha=0.5)
            style = {"color": curve.colour, "linestyle": "--" if curve.dashed else "-", "linewidth": 1.4}
            axes.plot(x, value, marker="o", markersize=3, label=curve.name, **style)
        axes.set_title(f"{name}, %", fontsize=9)
        axes.set_xlabel(across, fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(-3, 103)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = found[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return path
