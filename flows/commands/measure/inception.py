"""`saeuron inception`: weights of the network that published Frechet distances are of."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import say


def inception(
    checkpoint: Annotated[Path, typer.Argument(help="pt_inception-2015-12-05-6726825d.pth, or one like it.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file of `features: inception:FILE`.")],
) -> None:
    """Convert the network of published Frechet distances.

    Weights alone are read, and written as safetensors. pytorch-fid and torch-fidelity publish the checkpoint; nothing
    is fetched here.

    Example: saeuron inception pt_inception-2015-12-05-6726825d.pth --out inception.safetensors
    """
    import hashlib

    from flows.hints import command
    from saeuron.extractors.inception import convert

    path = convert(checkpoint, out)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    say(f"{path}: sha256 {sha256}")
    say(f"next: {command('run', '--set', f'features=inception:{path}')}")
