"""`saeuron inception`: convert the Inception network with which published Frechet distances are computed."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import file_out, say


def inception(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, pt_inception-2015-12-05-6726825d.pth.")],
    out: Annotated[
        Path,
        typer.Option(
            callback=file_out(".safetensors"), help="The .safetensors file to write, for `features: inception:FILE`."
        ),
    ],
) -> None:
    """Convert the Inception network for Frechet distances.

    Only the weights of the checkpoint are read; they are written as safetensors. pytorch-fid and torch-fidelity publish
    the checkpoint; this command downloads nothing.

    Example: saeuron inception pt_inception-2015-12-05-6726825d.pth --out inception.safetensors
    """
    from flows.hints import command
    from saeuron.extractors.inception import convert
    from saeuron.files import sha256

    path = convert(checkpoint, out)
    say(f"{path}: sha256 {sha256(path)}")
    say(f"next: {command('run', '--set', f'features=inception:{path}')}")
