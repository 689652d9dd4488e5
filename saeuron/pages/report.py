"""The report of a run or of a concept's removals: one HTML file that needs nothing beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

import saeuron
from saeuron.pages.document import Gallery, render
from saeuron.pages.removals import Comparison, RemovalRecord


@dataclass(frozen=True)
class Report:
    """Everything that the report shows."""

    title: str
    model: str
    """The diffusion model, as configured."""
    model_id: str
    facts: Mapping[str, Any]
    """About the run, in this order."""
    removals: Sequence[RemovalRecord]
    comparisons: Sequence[Comparison]
    config: str
    """The run's whole configuration, YAML; empty: unknown."""
    commands: Sequence[str]
    """Commands that make the same again, and this report."""
    hard: bool
    """Whether pictures are so small that they are enlarged without smoothing."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The figures as `saeuron report --check` compares them: {evaluation: {figure: value}}."""


def page(report: Report) -> str:
    """The report as HTML."""
    gallery = Gallery()
    for removal in report.removals:
        for place in removal.places:
            for latent in place.shown:
                for example in latent.examples:
                    gallery.add(example.key, example.picture)
    # Data for programs, which no browser runs. "</" would end it early.
    data = Markup(json.dumps(report.figures, sort_keys=True).replace("</", "<\\/"))
    return render("report.html", report=report, gallery=gallery, data=data, version=saeuron.__version__)


START, END = '<script type="application/json" id="figures">', "</script>"
"""The parts of the page around the figures."""


def figures_of(html: str) -> dict[str, Any]:
    """The figures that a page written by `page` shows, {evaluation: {figure: value}}.

    Raises:
        ValueError: it holds none.
    """
    _, found, rest = html.partition(START)
    if not found:
        raise ValueError("it holds no figures")
    figures: dict[str, Any] = json.loads(rest.partition(END)[0])
    return figures
