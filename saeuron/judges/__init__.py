"""Judges: they tell what an image shows. One file per judge, and one line in the table `JUDGES`.

judge.py          the interface of a judge, and its judgement of an image
canvas.py         the classifiers that ship with canvas and canvas20; a second one of canvas
classifier.py     any image classifier of Hugging Face
clip.py           zero-shot: any CLIP or SigLIP, with labels in sentences
nudenet.py        NudeNet's detector of body parts: nudity or clothed
unlearncanvas.py  the two classifiers of UnlearnCanvas
none.py           no judge: figures are null, never a guess
folder.py         where a judge's model lies, and its hash
renamed.py        a judge whose labels are named otherwise than the concepts
vit.py            a vision transformer with timm's names of weights

A judge is named by a specification, `NAME` or `NAME:ARGUMENT`: `canvas`, `clip:openai/clip-vit-large-patch14@main`.
A judge of your own is made known by `register`, or by an entry point of the group `saeuron.judges`.
docs/extending.md has the recipe.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from saeuron import installed
from saeuron.config import DomainConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.judges.canvas import Canvas20Judge, CanvasJudge, SecondJudge
from saeuron.judges.classifier import ClassifierJudge
from saeuron.judges.clip import ClipJudge
from saeuron.judges.judge import Detection, Judge, Judgement
from saeuron.judges.none import NoJudge
from saeuron.judges.nudenet import NudeNetJudge
from saeuron.judges.renamed import Renamed
from saeuron.judges.unlearncanvas import UnlearnCanvasJudge

__all__ = [
    "JUDGES",
    "NONE",
    "Detection",
    "Judge",
    "Judgement",
    "check",
    "check_name",
    "choices",
    "create",
    "names",
    "of_domain",
    "register",
    "unregister",
]

Factory = Callable[[str, str, Sequence[str], str], Judge]
"""(argument, domain, templates, device) -> judge. It loads no weights, and raises a `UserError` for bad arguments."""

GROUP = "saeuron.judges"
"""Entry points of installed packages: the name of a judge, and its factory."""
NONE = "none"
JUDGES: dict[str, Factory] = {
    "canvas": CanvasJudge,
    "canvas20": Canvas20Judge,
    "canvas_second": SecondJudge,
    "classifier": ClassifierJudge,
    "clip": ClipJudge,
    "nudenet": NudeNetJudge,
    "unlearncanvas": UnlearnCanvasJudge,
    NONE: NoJudge,
}
"""Every judge that ships or was registered, by its name."""


def register(name: str, judge: Factory) -> None:
    """Add a judge from outside the package, for this process.

    Raises:
        ConfigError: the name is taken, or holds a colon.
    """
    if ":" in name or not name:
        raise ConfigError(f"a judge cannot be named {name!r}; expected a name without a colon.")
    if name in JUDGES:
        raise ConfigError(f"a judge named {name!r} is registered already; choose another name.")
    JUDGES[name] = judge


def unregister(name: str) -> None:
    """Forget a judge that `register` added."""
    JUDGES.pop(name, None)


def names() -> list[str]:
    """Every judge that is known here."""
    return sorted({*JUDGES, *installed.entries(GROUP)})


def _factory(name: str) -> Factory:
    if name in JUDGES:
        return JUDGES[name]
    found = installed.entries(GROUP)
    if name not in found:
        raise UnknownName("judge", name, names())
    return installed.load("judge", found[name])


def check_name(spec: str) -> None:
    """Raise UnknownName if no judge has the name in a specification; its argument is not looked at."""
    _factory(spec.partition(":")[0])


def create(
    spec: str,
    domain: str,
    templates: Sequence[str] = (),
    device: str = "cpu",
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Judge:
    """The judge that a specification names; its weights are loaded at its first call.

    Args:
        spec: `NAME` or `NAME:ARGUMENT`.
        domain: the domain to judge: 'style', 'object', ...
        templates: sentences with the placeholder {label}, for judges that use them; empty: the judge's own.
        device: the device to run on.
        labels: {concept: what the judge calls it}, where that is not the concept's name.

    Raises:
        UnknownName: there is no such judge, it does not know the domain, or has no such label.
        ConfigError, BadModel: the judge refuses the argument or the templates, or cannot be loaded.
    """
    name, _, argument = spec.partition(":")
    judge = _factory(name)(argument, domain, templates, device)
    return Renamed(judge, labels) if labels else judge


def of_domain(domain: str, config: DomainConfig, device: str = "cpu") -> Judge:
    """The judge of a domain, as `create` makes it."""
    return create(config.judge, domain, config.judge_templates, device, config.judge_labels)


def choices(judge: Judge, concepts: Iterable[str]) -> tuple[str, ...]:
    """The labels to judge a domain by: the judge's fixed labels, else the concepts, sorted, and its `rest`."""
    if judge.labels is not None:
        return judge.labels
    return (*sorted({*concepts}), *filter(None, [getattr(judge, "rest", None)]))


def check(
    spec: str,
    domain: str,
    concepts: Iterable[str],
    templates: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    renamed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise a `UserError` unless the judge knows the domain and a label for each of its concepts; loads nothing.

    A judge without a label for a concept would count every image as a success of its removal. `size` is the height and
    width of the model's images, if known: a judge with an attribute `size` reads no others. `renamed` is the `labels`
    of `create`.
    """
    judge = create(spec, domain, templates, labels=renamed)
    labels, reads = judge.labels, getattr(judge, "size", None)
    if size and reads and reads != size:
        raise ConfigError(
            f"the judge {spec!r} reads images of {reads[0]} x {reads[1]} pixels, and this model makes "
            f"{size[0]} x {size[1]}; use judge: clip:MODEL or none."
        )
    for concept in concepts:
        if labels is not None and concept not in labels:
            hint = "Use judge_labels, judge: clip:MODEL or none, or another concept."
            raise UnknownName(f"label of the judge {spec!r}", concept, labels, hint)
