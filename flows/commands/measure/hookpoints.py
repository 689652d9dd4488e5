"""`saeuron hookpoints`: where a model can be edited, and how much of a concept passes there."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import Device, Json, Threads, say
from saeuron.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from saeuron.pipelines.patching import Share
    from saeuron.pipelines.survey import Place

WIDE = 58
"""Columns of a path: the longest of Stable Diffusion XL."""
CONCEPT = "{concept}"
SENTENCES = (f"An image of {CONCEPT}.", f"The {CONCEPT}.")


def hookpoints(
    model: Annotated[str, typer.Argument(help="canvas, canvas20, a folder, or a hub id.")],
    rank: Annotated[str | None, typer.Option(help="A concept: rank modules by how much of it they carry.")] = None,
    instead: Annotated[
        list[str] | None, typer.Option(help="With --rank: another concept to compare with; repeatable.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="With --rank: a sentence with {concept}; give two or more.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --rank: denoising steps.")] = 12,
    guidance: Annotated[float, typer.Option(min=0, help="With --rank: guidance scale.")] = 2.5,
    size: Annotated[
        str | None, typer.Option(help="Height and width in pixels, such as 768x512, or one number for both.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """List modules that can be hooked, or rank them.

    Columns: positions, width D, bytes of one image at one step in float16, and what papers edit. No weights are loaded.

    With --rank, weights are loaded. Each module's output is copied from a run on a prompt with the concept into a run
    on the same prompt with another concept, from the same noise. The share is how much of the change in the prediction
    follows. It tells where a concept passes, not whether an edit there spares other concepts.

    Example: saeuron hookpoints canvas --rank cat --instead moon --instead star
    """
    from flows.hints import command
    from saeuron.pipelines import loading

    loading.check(model, weights=rank is not None)
    pixels = _pixels(size)
    loading.check_size(model, pixels)
    if rank is None:
        if instead or prompt:
            raise ConfigError("--instead and --prompt are of --rank CONCEPT; say which concept is ranked.")
        from saeuron.pipelines.survey import survey

        places = survey(model, pixels)
        if as_json:
            say(json.dumps([p._asdict() for p in places], indent=2))
            return
        say("\n".join(_listed(places)))
        say(f"\nnext: {command('hookpoints', model)} --rank CONCEPT --instead OTHER")
        return
    sentences = tuple(prompt or SENTENCES)
    for sentence in sentences:
        if sentence.count(CONCEPT) != 1:
            raise ConfigError(f"--prompt {sentence!r}: expected a sentence with {CONCEPT} once in it.")
    if len(sentences) < 2:
        raise ConfigError("--prompt is there once; give two or more sentences: the control is another sentence.")
    if not instead or rank in instead:
        raise ConfigError(
            f"--rank {rank} needs --instead OTHER: another concept of its kind, in whose place it stands."
        )
    _check_names(model, [rank, *instead])
    from flows.check import check_device

    check_device(device)
    found, together, control = _ranked(model, rank, instead, sentences, steps, guidance, pixels, device, threads)
    if as_json:
        say(json.dumps({"ranked": [*map(asdict, found)], "together": asdict(together), "control": asdict(control)}))
        return
    say("\n".join(_shares(found, together, control, rank)))
    say("\nnext: name one in your configuration (domains.DOMAIN.hookpoints), and run it.")


def _ranked(
    model: str,
    concept: str,
    instead: Sequence[str],
    sentences: Sequence[str],
    steps: int,
    guidance: float,
    size: tuple[int, int] | None,
    device: str,
    threads: int,
) -> tuple[list["Share"], "Share", "Share"]:
    """(a share for each module, the largest first; of all modules where text enters; of these from another prompt)."""
    from saeuron.config import ModelConfig
    from saeuron.pipelines.patching import Pair, shares
    from saeuron.pipelines.survey import survey
    from tasks.engine.model import pipeline, set_threads

    set_threads(threads)
    config = ModelConfig(spec=model, steps=steps, guidance=guidance, size=size)
    # Not str.format: other braces in a sentence are words of it.
    pairs = [
        Pair(s.replace(CONCEPT, concept), s.replace(CONCEPT, other), another.replace(CONCEPT, other))
        for s, another in zip(sentences, (*sentences[1:], sentences[0]), strict=True)
        for other in instead
    ]
    pipe = pipeline(config, device)
    from saeuron.pipelines import family_of

    family = family_of(pipe)
    paths = [p.hookpoint for p in survey(model) if p.hookpoint.split(".")[0] == family.root]
    entries = [p for p in paths if p.endswith(family.text_enters)]
    together, *single = shares(pipe, pairs, [entries, *([p] for p in paths)], config)
    (control,) = shares(pipe, pairs, [entries], config, control=True)
    return sorted(single, key=lambda s: -s.share), together, control


def _check_names(model: str, names: Sequence[str]) -> None:
    """Raise if canvas, whose words are known, does not draw a concept, or the concepts are of two kinds."""
    from saeuron.canvas.vocabularies import VOCABULARIES

    if model not in VOCABULARIES:
        return
    of = VOCABULARIES[model]
    kinds = dict.fromkeys(of.objects, "object") | dict.fromkeys(of.styles, "style")
    for name in names:
        if name not in kinds:
            raise UnknownName("concept", name, kinds, f"(of {model})")
        if kinds[name] != kinds[names[0]]:
            raise ConfigError(
                f"--instead {name} is an {kinds[name]}, {names[0]} a style; name another style."
                if kinds[name] == "object"
                else f"--instead {name} is a style, {names[0]} an object; name another object."
            )


def _pixels(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `768x512` or `512`. Raises ConfigError for other text."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if not (len(sides) in (1, 2) and all(side.strip().isdecimal() and int(side) for side in sides)):
        raise ConfigError(f"--size {text!r}: expected a height and a width in pixels such as 768x512, or one number.")
    return int(sides[0]), int(sides[-1])


def _row(path: str, rest: str) -> list[str]:
    """One line, or two where the path is long."""
    return [f"{path:<{WIDE}} {rest}"] if len(path) <= WIDE else [path, f"{'':<{WIDE}} {rest}"]


def _listed(places: Sequence["Place"]) -> list[str]:
    lines = _row("hookpoint", f"{'places':>7} {'D':>5} {'kB':>7}")
    for place in places:
        shape = "x".join(map(str, place.shape[1:])) if len(place.shape) == 3 else str(place.positions)
        lines += _row(place.hookpoint, f"{shape:>7} {place.width:>5} {place.bytes / 1000:>7.1f}")
        if place.literature:
            lines.append(f"  ^ {place.literature}")
    return [*lines, "", "places: positions of one image (or tokens); kB: one image, one step, in float16."]


def _shares(found: Sequence["Share"], together: "Share", control: "Share", concept: str) -> list[str]:
    def row(name: str, share: "Share") -> list[str]:
        return _row(name, f"{100 * share.share:>5.1f} {100 * share.low:>6.1f} {100 * share.high:>6.1f}")

    lines = [f"{concept}: share of the change in the prediction, %, {together.n} pairs of prompts", ""]
    lines += _row("hookpoint", f"{'share':>5} {'low':>6} {'high':>6}")
    for share in found:
        lines += row(share.hookpoints[0], share)
    lines += ["", *row(f"all {len(together.hookpoints)} where text enters, at once", together)]
    lines += row("control: these, from a prompt without the concept", control)
    total = 100 * sum(s.share for s in found)
    return [*lines, "", f"low, high: 95 % interval over pairs. Shares need not sum to 100; here {total:.0f}."]
