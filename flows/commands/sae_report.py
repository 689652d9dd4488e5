"""`saeuron sae report` and `saeuron latent show`: measure an SAE, and show one of its latents."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say
from saeuron.errors import ConfigError

if TYPE_CHECKING:
    from tasks.sae_page import Diagnosis

latents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show single latents of an SAE.")

Named = Annotated[str, typer.Argument(metavar="ID", help="The SAE: its id, a prefix of the id, or its hookpoint.")]


def report(
    sae: Named,
    against: Annotated[str | None, typer.Option(help="Another SAE to compare its decoder with.")] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Train one with the next seed and compare with that.")
    ] = False,
    images: Annotated[int, typer.Option(min=2, help="Held-out images to generate.")] = 256,
    rows: Annotated[int, typer.Option(min=2, help="Activations kept for the analysis of the error.")] = 16384,
    out: Annotated[Path | None, typer.Option(help="The HTML file; in the workspace's reports by default.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Measure an SAE on held-out images; write an HTML page.

    Example: saeuron sae report unet.up_blocks.0.attentions.1 --stability
    """
    if against is not None and stability:
        raise ConfigError("--against names an SAE to compare with, --stability trains one; give one of the two.")
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: expected a file name that ends in .html")
    diagnosis = _measured(sae, workspace, device, threads, verbose, as_json, against, stability, images, rows)
    from flows.hints import command
    from flows.sae_report import figures
    from tasks.sae_page import write_page

    path = write_page(diagnosis, out or diagnosis.workspace.reports / f"{diagnosis.sae_id}.html")
    if as_json:
        found = {"sae": diagnosis.sae_id, "diagnosis": diagnosis.manifest.id, "page": str(path)}
        say(json.dumps({**found, "against": diagnosis.against, "figures": diagnosis.figures}, indent=2))
        return
    say("\n".join(figures(diagnosis)))
    say(f"page: {path}")
    shown = diagnosis.shown()
    then = command("latent", "show", diagnosis.sae_id, shown[0] if shown else 0, workspace=workspace)
    say(f"next: {then}")


@latents.command("show")
def latent_show(
    sae: Named,
    latent: Annotated[int, typer.Argument(metavar="LATENT", help="Number of the latent, from 0.")],
    out: Annotated[Path | None, typer.Option(help="The PNG; in the workspace's pictures by default.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show one latent: density, concepts, neighbours, images.

    Also writes a PNG of the images with its largest values. The figures are those of the last `saeuron sae report`; if
    there is none, the SAE is measured first.

    Example: saeuron latent show unet.up_blocks.0.attentions.1 12 --out latent.png
    """
    if out is not None and out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a file name that ends in .png")
    diagnosis = _measured(sae, workspace, device, threads, verbose, as_json)
    from flows.sae_report import check_latent, latent_fields, latent_lines
    from tasks.sae_page import write_sheet

    check_latent(diagnosis, latent)
    [found] = diagnosis.describe([latent], near=True)
    path = write_sheet(diagnosis, found, out or diagnosis.workspace.pictures / f"{diagnosis.sae_id}_{latent}.png")
    if as_json:
        say(json.dumps({"sae": diagnosis.sae_id, **latent_fields(found), "picture": str(path)}, indent=2))
    else:
        say("\n".join(latent_lines(diagnosis, found)))
        say(f"picture: {path}")


def _measured(
    sae: str, workspace: Path, device: str, threads: int, verbose: bool, as_json: bool, *asked: Any
) -> "Diagnosis":
    """The diagnosis of an SAE, made if missing; without `asked` (options of `sae_report`), the newest one."""
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from storage import Workspace

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    check_device(device)
    from flows.sae_report import sae_report
    from tasks.engine import model
    from tasks.registry import runs
    from tasks.registry.saes import find
    from tasks.sae_page import Diagnosis, newest

    model.set_threads(threads)
    found = find(opened, sae)
    against, *rest = asked or (None,)
    other = find(opened, against).id if against is not None else None
    there = newest(opened, "diagnosis", sae_id=found.id)
    if there is not None and not asked:
        compared = newest(opened, "stability", sae_id=found.id)
        return Diagnosis(opened, there.id, compared.id if compared else None)
    from flows.display import on_prefect

    config = runs.remembered(opened)
    with on_prefect(console_for(as_json)):
        made = sae_report(config, str(opened.root), found.id, other, *rest, device=device, threads=threads)
    return Diagnosis(opened, made["diagnosis"], made["stability"])
