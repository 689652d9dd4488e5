"""Generate one prompt without and with removals."""

from collections.abc import Sequence
from pathlib import Path

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import latent_shape, sample
from saeuron.methods.removal import Removal, removed
from saeuron.noise import initial_noise
from saeuron.pages.pictures import enlarge, save_png, side_by_side
from saeuron.pipelines.loading import tokenizer, unread
from saeuron.prompts import Prompt
from storage import Workspace
from storage.published import published
from tasks.engine import model
from tasks.registry import runs


def find(workspace: Path, names: Sequence[str]) -> list[Path]:
    """The files of removals, each given by its path, or by `CONCEPT` or `CONCEPT.METHOD` for one of the workspace.

    Raises:
        UnknownName: there is no such file or removal.
        ConfigError: a concept has removals by several methods, none by the first of the last run's configuration, and
            the name gives no method.
    """
    return [
        path
        if (path := Path(name)).suffix == ".safetensors" and path.is_file()
        else file_of(Workspace.open(workspace, create=False), name)
        for name in names
    ]


def file_of(workspace: Workspace, name: str) -> Path:
    """The file of a workspace's removal, by `CONCEPT` or `CONCEPT.METHOD`. Raises as `find`.

    Of several for a concept, the one by the first method of the last run's configuration is meant.
    """
    known = published(workspace)
    fitting = {p: a for p, a in known.items() if name in (a.concept, f"{a.concept}.{a.method}")}
    if not fitting:
        names = [n for a in known.values() for n in (a.concept, f"{a.concept}.{a.method}")]
        raise UnknownName("removal", name, {*names}, "Make it with: saeuron evaluate CONCEPT")
    if len(fitting) > 1 and workspace.root.joinpath(runs.CONFIG).exists():
        first = runs.remembered(workspace).method[0]
        fitting = {p: a for p, a in fitting.items() if a.method == first} or fitting
    if len(fitting) > 1:
        several = ", ".join(f"{a.concept}.{a.method}" for a in fitting.values())
        raise ConfigError(f"concept {name!r} has {len(fitting)} removals; give one of {several}.")
    return next(iter(fitting))


def compare(
    workspace: Path,
    text: str,
    files: Sequence[Path],
    seed: int,
    steps: int | None,
    guidance: float | None,
    out: Path,
    device: str,
    threads: int,
    any_model: bool = False,
) -> tuple[dict[str, int], str]:
    """Write the two images side by side, or the one of no removal.

    Returns:
        ({SAE or hookpoint: pairs (step, latent) that several removals edit}, the end of the text that the model does
        not read).
    """
    removals = [Removal.load(path) for path in files]
    config = ModelConfig()
    if (workspace / runs.CONFIG).exists():
        config = runs.remembered(Workspace.open(workspace, create=False)).model
    given = {"steps": steps, "guidance": guidance}
    config = config.model_copy(update={k: v for k, v in given.items() if v is not None})
    model.set_threads(threads)
    pipe = model.pipeline(config, device)
    noise = initial_noise(seed, [(Prompt(text, "test").id, 0)], latent_shape(pipe, config))
    reads = tokenizer(config.spec)
    lost = unread(reads, [text]).get(text, "") if reads else ""
    unedited = sample(pipe, [text], noise, config)[0]
    if not removals:
        save_png(out, enlarge(unedited, 256))
        return {}, lost
    with removed(pipe, removals, any_model) as attached:
        edited = sample(pipe, [text], noise, config, extra=attached.call)[0]
    side_by_side(unedited, edited, out)
    return attached.overlap, lost
