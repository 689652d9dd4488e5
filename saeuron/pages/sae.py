"""The page about one SAE: what it keeps and loses, its latents as a whole, and the most telling of them one by one."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from saeuron.pages import plots
from saeuron.pages.contents import RANGES, Latent, SAEReport, StepFigures
from saeuron.pages.document import Gallery, Markup, document, number, overlay, percent, table, tiles

BARS = 18
"""Concepts in the bars of one latent."""
_COUNTERPART = 0.9
"""The cosine from which two decoder rows are taken for the same latent."""
_FIGURES = (("FVU", "fvu", ".4f"), ("|e|²/|x|²", "relative", ".4f"), ("L0", "l0", ".2f"))
"""Of each step and half: (what it is called, its field, its form)."""


def page(report: SAEReport) -> str:
    """The page as HTML, with everything inside."""
    gallery = Gallery()
    latents = [_latent(latent, gallery) for latent in report.latents]
    body = [
        _header(report),
        _nav(),
        _steps(report),
        _dictionary(report),
        _dark_matter(report),
        _loss(report),
        _top(report),
        "<h2 id=latents>Latents</h2>",
        "<p class=soft>Above, the images on which the latent is largest; below, the latent over the same image at the "
        "denoising step where it is. All maps of a latent are on one scale: red is its largest value of all. Any other "
        f"latent: <code>saeuron feature show {report.sae_id[:14]} LATENT</code>.</p>",
        *latents,
    ]
    return document(f"SAE at {report.hookpoint}", body, gallery.style)


def _header(report: SAEReport) -> str:
    f = report.figures
    own = f["halves"][f["half"]]
    dark = f["dark_matter"]
    n = len(report.density)
    facts = [
        (number(own["fvu"]), "FVU: fraction of variance unexplained"),
        (number(own["l0"], ".1f"), "L0: latents that fire on a row"),
        (f"{f['dead']} of {n}", "dead latents"),
        (str(f["always_on"]), "latents that are always on"),
        (percent(f["loss"]["recovered"]), "denoising loss recovered"),
        (percent(dark["encoder"]["linear"]), "of the error is linear in x"),
        (number(dark["pursuit"]["fvu"]), "FVU with codes by gradient pursuit"),
    ]
    if report.stability is not None:
        facts.append((number(float(report.stability.mean())), "mean max cosine to another SAE"))
    rows = [(name, _plain(value)) for name, value in report.config.items()]
    return (
        f"<h1>SAE at {escape(report.hookpoint)}</h1>\n<p class=id>{escape(report.sae_id)}</p>\n"
        f"<p class=soft>Measured on {f['images']} generated images of {f['prompts']} test prompts, "
        f"{len(f['timesteps'])} denoising steps each: {own['rows']} rows of the {f['half']} half. No image, noise or "
        f"prompt of them was used in training.</p>\n{tiles(facts)}\n"
        f"<details><summary>Configuration</summary>{table(['', ''], rows, left=2)}</details>"
    )


def _nav() -> str:
    names = {
        "steps": "Steps and halves", "dictionary": "Dictionary", "dark": "What is left", "loss": "Denoising loss",
        "top": "Top latents", "latents": "Latents",
    }  # fmt: skip
    return "<nav>" + "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in names.items()) + "</nav>"


def _steps(report: SAEReport) -> str:
    at = {(s.timestep, s.half): s for s in report.steps}
    timesteps = sorted({t for t, _ in at}, reverse=True)
    whole = report.figures["halves"]

    def plot(name: str, title: str) -> str:
        return plots.lines(
            timesteps, [(half, [getattr(at[t, half], name) for t in timesteps]) for half in whole], title
        )

    columns = [(half, *figure) for half in whole for figure in _FIGURES]
    rows = [[t, *(number(getattr(at[t, half], name), form) for half, _, name, form in columns)] for t in timesteps]
    rows.append(["all", *(number(whole[half][name], form) for half, _, name, form in columns)])
    header = ["timestep", *(f"{said}, {half}" for half, said, _, _ in columns)]
    return (
        "<h2 id=steps>Steps and halves</h2>\n"
        "<p>How well rows are reconstructed at each denoising step, for the half of the batch that sees the prompt "
        "(conditional) and the half that sees an empty one (unconditional).</p>\n"
        f'<div class="plots">{plot("fvu", "FVU")}{plot("l0", "L0")}</div>\n{table(header, rows, left=0)}\n'
        "<p class=soft>FVU is the summed squared error over the summed squared distance from the mean: of the rows of "
        "that step and half, and in the last line of all steps together, whose mean and variance are others. Where "
        "rows hardly differ, as those of a cross-attention with an empty prompt, that distance is next to nothing and "
        "FVU is huge; |e|²/|x|², the error over the rows' own squared length, says how large the error is.</p>"
    )


def _dictionary(report: SAEReport) -> str:
    fires = report.density[report.density > 0]
    drawn = [
        plots.histogram(np.log10(fires), "Firing density", "log10 of the share of rows"),
        plots.histogram(
            report.max_cosine, "Decoder: nearest other row", "largest cosine", span=_span(report.max_cosine)
        ),
    ]
    if report.stability is None:
        note = (
            "<p class=soft>Stability was not measured: <code>--against ID</code> compares this decoder with that of "
            "another SAE, <code>--stability</code> trains one with the next seed for it.</p>"
        )
    else:
        alive = report.stability[report.density > 0]
        drawn.append(
            plots.histogram(
                report.stability, "Stability", "largest cosine to the other SAE", span=_span(report.stability)
            )
        )
        high = percent(float((report.stability > _COUNTERPART).mean()))
        note = (
            f"<p>Stability: the decoder rows of <span class=id>{escape(report.against or '')}</span> lie at a mean "
            f"largest cosine of {report.stability.mean():.3f} from those of this SAE ({alive.mean():.3f} over the "
            f"latents that fire; {number(report.chance)} would be chance); {high} of the latents have a counterpart "
            f"above {_COUNTERPART}.</p>"
        )
    return (
        f'<h2 id=dictionary>Dictionary</h2>\n<div class="plots">{"".join(drawn)}</div>\n{note}\n'
        f"{_list('Dead latents', report.dead, 'fire on no row, and are not in the density histogram')}"
        f"{_list('Always-on latents', report.always_on, 'fire on at least 90 % of rows')}"
    )


def _span(values: Any) -> tuple[float, float]:
    return min(0.0, float(values.min(initial=0.0))), 1.0


def _list(name: str, latents: Sequence[int], meaning: str) -> str:
    if not latents:
        return f"<p>{name}: none <span class=soft>({meaning})</span></p>"
    shown = ", ".join(map(str, latents))
    return (
        f"<details><summary>{name}: {len(latents)} <span class=soft>({meaning})</span></summary>"
        f"<p>{shown}</p></details>"
    )


def _dark_matter(report: SAEReport) -> str:
    dark = report.figures["dark_matter"]
    rows = []
    for name, said in (("encoder", "encoder"), ("pursuit", "gradient pursuit")):
        e = dark[name]
        linear, norm = e["fvu_linear"], e["norm"]
        nonlinear = None if linear is None else e["fvu"] - linear
        parts = [number(v, ".4f") for v in (linear, nonlinear)]
        rows.append([said, number(e["fvu"], ".4f"), number(e["l0"], ".2f"), percent(e["linear"]), *parts, number(norm)])
    header = ["codes from", "FVU", "L0", "linear share", "FVU, linear part", "FVU, nonlinear part", "R² of |e|²"]
    encoder, pursuit = dark["encoder"]["fvu"], dark["pursuit"]["fvu"]
    better = (
        f"it recovers {percent(1 - pursuit / encoder)} of the encoder's error."
        if pursuit < encoder
        else "it finds no better codes."
    )
    few = "" if dark["encoder"]["linear"] is not None else " Too few rows to fit: raise --rows."
    return (
        "<h2 id=dark>What is left</h2>\n"
        "<p>The error e = x - x&#770; and how much of it least squares can predict from x: fitted on "
        f"{dark['fit_rows']} rows, measured on {dark['test_rows']} rows of other images.{few} Gradient pursuit looks "
        "for better codes over the same decoder, with at most as many latents in each row as the encoder used there: "
        f"{better}</p>\n"
        f"{table(header, rows)}\n"
        "<p class=soft>linear share: 1 - &#931;|e - e&#770;|² / &#931;|e|². R² of |e|²: how well the size of the error "
        "is predicted, in the same way. After 2410.14670; pursuit after Blumensath and Davies 2008.</p>"
    )


def _loss(report: SAEReport) -> str:
    loss = report.figures["loss"]
    steps = [s for s in report.steps if s.loss_clean is not None]
    half = report.figures["half"]
    own = [s for s in steps if s.half == half]
    timesteps = [s.timestep for s in own]
    curves: list[plots.Series] = [
        ("clean", [s.loss_clean for s in own]),
        ("with x̂", [s.loss_sae for s in own]),
        ("with zero", [s.loss_zero for s in own]),
    ]
    shares: plots.Series = ("share", [_recovered(s) for s in own])
    rows = [
        [
            s.timestep,
            s.half,
            *(number(v, ".5f") for v in (s.loss_clean, s.loss_sae, s.loss_zero)),
            percent(_recovered(s)),
        ]
        for s in steps
    ]
    for name, value in loss["halves"].items():
        rows.append(["all", name, "", "", "", percent(value)])
    return (
        "<h2 id=loss>Denoising loss</h2>\n"
        f"<p>{percent(loss['recovered'])} of the loss that zero in the hookpoint's place costs is recovered by the "
        "reconstruction: (L<sub>zero</sub> - L<sub>SAE</sub>) / (L<sub>zero</sub> - L<sub>clean</sub>), the losses of "
        "both halves and all timesteps summed first.</p>\n"
        f'<div class="plots">{plots.lines(timesteps, curves, f"Noise-prediction loss, {half} half")}'
        f"{plots.lines(timesteps, [shares], f'Share recovered, {half} half')}</div>\n"
        f"<details><summary>Every timestep and half</summary>"
        f"{table(['timestep', 'half', 'clean', 'with x̂', 'with zero', 'recovered'], rows, left=0)}</details>\n"
        f"<p class=soft>{loss['images']} of the images are encoded again, noised to {loss['timesteps']} timesteps of "
        "the sampling with known noise, and given to the denoiser with their prompt and with the empty one; the loss "
        "is the mean square of true minus predicted noise, of each half by itself, before guidance. x&#770; or zero "
        "replaces the hookpoint's whole output, at all positions of both halves. A dash: zero there costs less than "
        "1 % of the loss, so that the share would be noise.</p>"
    )


def _recovered(s: StepFigures) -> float | None:
    """Of one timestep and half; None where zero costs next to nothing."""
    if s.loss_clean is None or s.loss_sae is None or s.loss_zero is None:
        return None
    cost = s.loss_zero - s.loss_clean
    return (s.loss_zero - s.loss_sae) / cost if cost > 0.01 * s.loss_clean else None


def _top(report: SAEReport) -> str:
    rows = []
    for latent in report.latents:
        best = latent.scores[0] if latent.scores else None
        peak, at = best.peak if best else (None, None)
        row: list[Any] = [
            Markup(f'<a href="#latent-{latent.latent}">{latent.latent}</a>'),
            best.concept if best else "-",
            best.domain if best else "-",
            number(best.mean if best else None, ".4f"),
            f"{peak:.4f} at {at}" if peak is not None else "-",
            number(latent.density, ".4f"),
            number(latent.image_density, ".3f"),
            number(latent.max_cosine, ".3f"),
        ]
        rows.append(row + ([number(latent.stability, ".3f")] if report.stability is not None else []))
    header = ["latent", "concept", "domain", "score", "peak score", "rows", "images", "max cosine"]
    header += ["stability"] if report.stability is not None else []
    said = (
        "The latents that belong most to one concept: score s(i, t, c) of 2501.18052, mean over all steps, and where "
        "it is highest. Rows and images: the share of held-out rows and images on which the latent fires."
        if report.protocol is not None
        else "This SAE was not scored yet, so these are the latents that grow largest; <code>saeuron run</code> scores "
        "the concepts of a configuration."
    )
    return f"<h2 id=top>Top latents</h2>\n<p>{said}</p>\n{table(header, rows, left=3)}"


def _latent(latent: Latent, gallery: Gallery) -> str:
    facts = [
        f"fires on {percent(latent.density)} of rows, in {percent(latent.image_density)} of images",
        f"largest {latent.maximum:.3g}, mean {latent.mean:.3g}",
        f"nearest decoder row {latent.nearest} (cosine {latent.max_cosine:.2f})",
    ]
    if latent.stability is not None:
        facts.append(f"stability {latent.stability:.2f}")
    figures = []
    for example in latent.examples:
        said = f"{example.prompt} (value {example.value:.3g} at timestep {example.timestep})"
        shown = gallery.show(example.key, example.picture, said)
        figures.append(
            f'<figure title="{escape(said)}">{shown}<div class="over">'
            f"{gallery.show(example.key, example.picture, '')}{overlay(example.heat)}</div>"
            f"<figcaption>{example.value:.3g} at t {example.timestep}<br>{escape(example.prompt)}</figcaption></figure>"
        )
    drawn = [plots.lines(latent.timesteps, [("mean", latent.profile)], "Mean activation at each step")]
    best = ""
    if latent.scores:
        first = latent.scores[0]
        best = f" <span class=soft>{escape(first.concept)} ({escape(first.domain)}), score {first.mean:.4f}</span>"
        more = len(latent.scores) - BARS
        title = "Score of each concept" + (f" (the best {BARS} of {len(latent.scores)})" if more > 0 else "")
        drawn.append(plots.bars([(s.concept, s.mean) for s in latent.scores[:BARS]], title))
        ranges = table(
            ["concept", *RANGES],
            [[s.concept, *(number(v, ".4f") for v in s.by_range)] for s in latent.scores[:3]],
        )
    else:
        ranges = ""
    strip = f'<div class="strip">{"".join(figures)}</div>' if figures else "<p>It never fires on these images.</p>"
    return (
        f'<section class="latent" id="latent-{latent.latent}"><h3>Latent {latent.latent}{best}</h3>\n'
        f"<p class=soft>{'; '.join(facts)}</p>\n{strip}\n"
        f'<div class="pair"><div>{drawn[0]}{ranges}</div>{"".join(drawn[1:])}</div></section>'
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)
