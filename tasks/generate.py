"""Generate one prompt without and with removals."""

from collections.abc import Sequence
from pathlib import Path

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import latent_shape, sample
from saeuron.methods.removal import Removal, removed
from saeuron.noise import initial_noise
from saeuron.pages.pictures import enlarge, save_png, side_by_side
from saeuron.pipelines.loading import tokenizer, unread
from saeuron.prompts import Prompt
from storage import Workspace
from tasks.engine import model
from tasks.registry import runs
from tasks.registry.removals import place


def find(workspace: Path, names: Sequence[str]) -> list[Path]:
    """The files of removals, each given by its path, or by `CONCEPT` or `CONCEPT.METHOD` for one of the workspace.

    Raises:
        ConfigError: two names mean one removal; and what `place` raises.
    """
    found: dict[Path, str] = {}
    for name in names:
        path = place(workspace, name)
        if path.resolve() in found:
            first = found[path.resolve()]
            both = f"{name!r} is given twice" if name == first else f"{first!r} and {name!r} are the same removal"
            raise ConfigError(f"--remove: {both}; name each once.")
        found[path.resolve()] = name
    return list(found)


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
