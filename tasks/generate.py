"""Draw one prompt without and with removals."""

from collections.abc import Sequence
from pathlib import Path

from saeuron.config import ModelConfig
from saeuron.errors import UnknownName
from saeuron.generation import latent_shape, sample
from saeuron.methods.saeuron import Removal, removed
from saeuron.noise import initial_noise
from saeuron.pages.pictures import side_by_side
from saeuron.prompts import Prompt
from storage import Workspace
from tasks.engine import model
from tasks.registry import runs


def find(workspace: Path, names: Sequence[str]) -> list[Path]:
    """The files of removals: paths, or concepts that the workspace has a removal of.

    Raises:
        UnknownName: neither.
    """
    found = []
    for name in names:
        path = Path(name)
        if path.suffix == ".safetensors" and path.is_file():
            found.append(path)
            continue
        folder = Workspace.open(workspace, create=False).removals
        known = {p.stem: p for p in folder.glob("*.safetensors")}
        if name not in known:
            raise UnknownName("removal", name, known, "Make it with: saeuron evaluate CONCEPT")
        found.append(known[name])
    return found


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
) -> dict[str, int]:
    """Write the two images side by side; returns the overlap of the removals' latents."""
    removals = [Removal.load(path) for path in files]
    config = ModelConfig()
    if (workspace / runs.CONFIG).exists():
        config = runs.remembered(Workspace.open(workspace, create=False)).model
    given = {"steps": steps, "guidance": guidance}
    config = config.model_copy(update={k: v for k, v in given.items() if v is not None})
    model.set_threads(threads)
    pipe = model.pipeline(config, device)
    noise = initial_noise(seed, [(Prompt(text, "test").id, 0)], latent_shape(pipe))
    unedited = sample(pipe, [text], noise, config)[0]
    with removed(pipe, removals) as overlap:
        edited = sample(pipe, [text], noise, config)[0]
    side_by_side(unedited, edited, out)
    return overlap
