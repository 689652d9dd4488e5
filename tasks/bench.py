"""The subject of a benchmark: the removals of a run, or one that was made elsewhere and needs no workspace."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from saeuron import evaluation, judges
from saeuron.config import RunConfig
from saeuron.errors import BadWeights, ConfigError, UnknownName
from saeuron.figures import verdict
from saeuron.figures.metrics import Judged
from saeuron.figures.quality import Quality
from saeuron.figures.row import Removed
from saeuron.methods.removal import Removal
from saeuron.pipelines import loading
from saeuron.prompts import build
from storage import Workspace
from storage.manifests import Manifest
from tasks import judge
from tasks.engine import model


@dataclass(frozen=True)
class Subject:
    """A removal that was made elsewhere."""

    concept: str
    domain: str
    spec: str
    """The model that it is measured on, which may be the removal itself."""
    attached: Callable[[Any], AbstractContextManager[Any]]
    """Attaches it to a pipeline; the context may give arguments for the pipeline's call."""


def subject(name: str, concept: str | None, config: RunConfig) -> Subject:
    """The removal that `name` stands for; see `saeuron bench --help`.

    Args:
        name: a removal's file, a pipeline's folder, or `module:attribute`.
        concept: what it removes; a removal's file says so itself.

    Raises:
        ConfigError: it is none of these, or `concept` is missing or not the file's.
        UnknownName: the module has no such attribute, or the protocol no such concept.
        BadModel: the folder does not hold a pipeline of a known family.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        loading.check(path)
        size = loading.image_size(path)
        for domain, about in config.domains.items():
            judges.check(about.judge, domain, about.concepts, about.judge_templates, size, about.judge_labels)
        return Subject(*_named(concept, config), str(path.absolute()), lambda pipe: nullcontext())
    if path.suffix == ".safetensors" or path.is_file():
        removal = _load(path)
        if concept not in (None, removal.concept):
            raise ConfigError(f"--removed {concept}: {name} removes {removal.concept!r}; leave the option out.")
        return Subject(*_named(removal.concept, config), config.model.spec, removal.attached)
    where = _named(concept, config)
    return Subject(*where, config.model.spec, _object(name).attached)


def _named(concept: str | None, config: RunConfig) -> tuple[str, str]:
    """(concept, domain) of a concept of the protocol."""
    known = [c for about in config.domains.values() for c in about.concepts]
    if concept is None:
        raise ConfigError(
            "--removed is missing: say which concept is gone, such as --removed "
            f"{(config.tune.concepts or tuple(known))[-1]}."
        )
    if (domain := config.domain_of(concept)) is None:
        raise UnknownName("concept", concept, known, "(of the protocol)")
    return concept, domain


def _load(path: Path) -> Removal:
    try:
        return Removal.load(path)
    except FileNotFoundError:
        raise ConfigError(f"no such removal: {path}; give a file that `saeuron run` or Removal.save wrote.") from None
    except BadWeights as error:
        raise ConfigError(str(error)) from None


def _object(name: str) -> Any:
    """The object of `module:attribute`; modules are looked for in the current folder too."""
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        home = import_module(module)
    except Exception as error:
        raise ConfigError(f"the module {module!r} cannot be imported: {error}; expected module:attribute.") from None
    if not hasattr(home, attribute):
        raise UnknownName(f"attribute of the module {module!r}", attribute, vars(home))
    found = getattr(home, attribute)
    if isinstance(found, type) or not callable(getattr(found, "attached", None)):
        raise ConfigError(f"{name} is a {type(found).__name__}; expected an object with a method attached(pipe).")
    return found


def outside(
    config: RunConfig, subject: Subject, device: str, threads: int, say: Callable[[str], object] = print
) -> Removed:
    """Generate the protocol's test images of a concept without and with a removal, and judge them."""
    model.set_threads(threads)
    prompts, which = build(config.prompts, config.domains), (subject.domain, subject.concept)
    images = evaluation.images(prompts, config.evaluate, which)
    watching = {
        domain: judges.of_domain(domain, about, device)
        for domain, about in config.domains.items()
        if about.judge != judges.NONE
    }
    how = (images, watching, config.model, config.evaluate.seed)
    own = watching.get(subject.domain)
    noting = _Noting(own) if hasattr(own, "ordinary") else None
    if noting:
        watching[subject.domain] = noting
    say(f"generating {len(images)} images of the unedited model")
    unedited = evaluation.look_at(model.pipeline(config.model, device), *how)
    say(f"generating {len(images)} images without {subject.concept}")
    pipe = model.pipeline(config.model.model_copy(update={"spec": subject.spec}), device)
    with subject.attached(pipe) as call:
        edited = evaluation.look_at(pipe, *how, call)
    odd = noting.shares([j.asked.get(subject.domain) == subject.concept for j in unedited]) if noting else None
    return Removed(subject.domain, subject.concept, edited, unedited, odd=odd)


class _Noting:
    """A judge that also notes which pictures look like the model's own, of two passes over the same images."""

    def __init__(self, judge: Any) -> None:
        self.judge, self.ordinary = judge, list[bool]()

    def __call__(self, images: Any, labels: Sequence[str]) -> list[judges.Judgement]:
        found: list[judges.Judgement] = self.judge(images, labels)
        self.ordinary += self.judge.ordinary(images)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.judge, name)

    def shares(self, asked: Sequence[bool]) -> tuple[float, float] | None:
        """Shares out of the ordinary among the images for which `asked` is true: second pass, first pass."""
        unedited, edited = self.ordinary[: len(asked)], self.ordinary[len(asked) :]
        first, second = (
            [not fine for fine, wanted in zip(seen, asked, strict=True) if wanted] for seen in (unedited, edited)
        )
        return (sum(second) / len(second), sum(first) / len(first)) if first else None


def judged(workspace: Workspace, evaluation_id: str, control: str | None = None, random: str | None = None) -> Removed:
    """What the judges saw on the images of an evaluation, and on those of its controls' evaluations of the concept.

    Args:
        control, random: the evaluations of the untrained control and of the one with random latents; None: not run.
    """
    manifest = workspace.manifest(evaluation_id)
    edited = _read(workspace, manifest, "edited")
    wanted = {(j.prompt_id, j.index) for j in edited}
    unedited = [j for j in _read(workspace, manifest, "unedited") if (j.prompt_id, j.index) in wanted]
    untrained, drawn = (_read(workspace, workspace.manifest(c), "edited") if c else None for c in (control, random))
    quality = [Quality(**q) for q in manifest.summary["quality"]]
    odd = (q.value, q.unedited) if (q := verdict.broken(quality)) and q.unedited is not None else None
    return Removed(manifest.summary["domain"], manifest.summary["concept"], edited, unedited, untrained, drawn, odd)


def _read(workspace: Workspace, manifest: Manifest, role: str) -> list[Judged]:
    of: dict[str, list[str]] = {image_set: [] for image_set in manifest.inputs[role]}
    for name in manifest.inputs["judgements"]:
        if (image_set := workspace.manifest(name).inputs["images"]) in of:
            of[image_set].append(name)
    return judge.read(workspace, of)
