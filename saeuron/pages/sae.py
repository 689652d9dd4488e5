"""The page of one SAE: what it keeps and loses, its latents as a whole, and its most informative latents."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.pages import plots
from saeuron.pages.contents import RANGES, Latent, SAEReport, StepFigures
from saeuron.pages.document import Gallery, render
from saeuron.sae.diagnosis.norms import Norm, grouped

BARS = 18
"""Concepts shown in the bar plot of one latent."""
COUNTERPART = 0.9
"""Cosine from which two decoder rows count as the same latent."""


def page(report: SAEReport) -> str:
    """The page as self-contained HTML."""
    gallery = Gallery()
    for latent in report.latents:
        for example in latent.examples:
            gallery.add(example.key, example.picture)
    steps: dict[int, dict[str, StepFigures]] = {}
    for s in sorted(report.steps, key=lambda s: -s.timestep):
        steps.setdefault(s.timestep, {})[s.half] = s
    return render(
        "sae.html",
        report=report,
        steps=steps,
        gallery=gallery,
        plots=_plots(report, steps),
        norms=grouped([Norm(**n) for n in report.figures.get("norms", ())]),
        RANGES=RANGES,
        COUNTERPART=COUNTERPART,
    )


def _plots(report: SAEReport, steps: dict[int, dict[str, StepFigures]]) -> dict[str, Any]:
    """The plots of the page, SVG by name; `profiles` and `scores` hold one per latent."""
    half = report.figures["half"]
    own = [s for s in report.steps if s.half == half and s.loss_clean is not None]
    timesteps = [s.timestep for s in own]
    losses: list[plots.Series] = [
        ("clean", [s.loss_clean for s in own]),
        ("with x̂", [s.loss_sae for s in own]),
        ("with zero", [s.loss_zero for s in own]),
    ]

    def by_half(name: str, title: str) -> str:
        series = [(h, [getattr(s[h], name) for s in steps.values()]) for h in report.figures["halves"]]
        return plots.lines(list(steps), series, title)

    density = np.log10(report.density[report.density > 0])
    return {
        "fvu": by_half("fvu", "FVU"),
        "l0": by_half("l0", "L0"),
        "density": plots.histogram(density, "Firing density", "log10 of the share of rows"),
        "max_cosine": _cosines(report.max_cosine, "Decoder: nearest other row", "largest cosine"),
        "stability": ""
        if report.stability is None
        else _cosines(report.stability, "Stability", "largest cosine to the other SAE"),
        "loss": plots.lines(timesteps, losses, f"Noise-prediction loss, {half} half"),
        "recovered": plots.lines(timesteps, [("share", [s.recovered for s in own])], f"Share recovered, {half} half"),
        "profiles": [
            plots.lines(latent.timesteps, [("mean", latent.profile)], "Mean activation at each step")
            for latent in report.latents
        ],
        "scores": [_scores(latent) for latent in report.latents],
    }


def _cosines(values: NDArray[np.float64], title: str, x_name: str) -> str:
    return plots.histogram(values, title, x_name, span=(min(0.0, float(values.min(initial=0.0))), 1.0))


def _scores(latent: Latent) -> str:
    if not latent.scores:
        return ""
    count = len(latent.scores)
    title = "Score of each concept" + (f" (the best {BARS} of {count})" if count > BARS else "")
    return plots.bars([(s.concept, s.mean) for s in latent.scores[:BARS]], title)
