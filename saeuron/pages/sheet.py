"""One latent as a PNG: its top images with its maps over each, its profile and its scores."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.files import atomic_path
from saeuron.pages.contents import RANGES, Latent
from saeuron.pages.document import heat_colours
from saeuron.pages.pictures import Picture

_CONCEPTS = 10


def sheet(latent: Latent, title: str, path: Path) -> Path:
    """Draw the sheet; returns `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = max(len(latent.examples), 6)
    # Maps over thirds of the steps, where there are some, take a row of their own, less high.
    more = 0.9 if latent.has_thirds else 0.0
    figure = pyplot.figure(figsize=(1.35 * columns, 6.4 + more), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.1 + more, 3))
    rows = [1.55, 1.55, more][: 3 if more else 2]
    grid = above.add_gridspec(len(rows), columns, height_ratios=rows)
    for i in range(columns):
        first, second = (above.add_subplot(grid[row, i]) for row in (0, 1))
        for axes in (first, second):
            axes.set_axis_off()
        if i >= len(latent.examples):
            continue
        example = latent.examples[i]
        _show(first, example.picture)
        first.set_title(_wrapped(example.prompt), fontsize=6)
        if example.heat is None:
            second.text(0.5, 0.5, f"rank {example.rank}", ha="center", va="center", fontsize=7)
            continue
        _show(second, example.picture, example.heat)
        second.set_title(f"{example.value:.3g} at t {example.timestep}", fontsize=7)
        for place, part in enumerate(example.by_range):
            small = above.add_subplot(grid[2, i].subgridspec(1, len(RANGES))[0, place])
            small.set_axis_off()
            _show(small, example.picture, part.heat)
            small.set_title(part.name.replace(" ", "\n"), fontsize=6)
    profile, scores = below.subplots(1, 2)
    profile.plot(latent.timesteps, latent.profile, marker="o", markersize=3, linewidth=1.5, color="#2563a8")
    profile.invert_xaxis()
    profile.set_ylim(bottom=min(0.0, *latent.profile))
    profile.set_xlabel("timestep (noise to image)", fontsize=8)
    profile.set_title("mean activation at each step", fontsize=9)
    best = list(latent.scores[:_CONCEPTS])[::-1]
    if best:
        scores.barh([s.concept for s in best], [s.mean for s in best], color="#2563a8")
        scores.set_title("score of its best concepts", fontsize=9)
    else:
        scores.text(0.5, 0.5, "not scored", ha="center", va="center", fontsize=9)
        scores.set_xticks([])
        scores.set_yticks([])
    for axes in (profile, scores):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{title}: fires on {100 * latent.density:.2f} % of rows, in {100 * latent.image_density:.1f} % of images",
        fontsize=10,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return path


def _show(axes: Any, picture: Picture, heat: NDArray[np.uint8] | None = None) -> None:
    """Draw a picture, or, grey, what lies under a map."""
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)
    smooth = "nearest" if min(height, width) <= 64 else "antialiased"
    axes.imshow(picture if heat is None else _grey(picture), extent=extent, interpolation=smooth)
    if heat is not None:
        axes.imshow(heat_colours(heat), extent=extent, interpolation="bilinear")


def _grey(picture: Picture) -> Picture:
    """The picture as the page shows it under a map: grey, a little darker."""
    light = (picture.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])) * 0.82
    return np.repeat(light.round().astype(np.uint8)[..., None], 3, axis=2)


def _wrapped(text: str, width: int = 22, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="..."))
