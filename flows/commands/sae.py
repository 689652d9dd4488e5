"""`saeuron sae`: read and write SAEs of this and other libraries."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import WORKSPACE, Commands, Json, WorkspaceOption, folder_out, say

app = Commands(help="List, import, export, describe and measure SAEs.")

Named = Annotated[
    str,
    typer.Argument(
        help="A folder; an SAE of the workspace, by its id or hookpoint; or owner/name[@revision][:folder]."
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(help="SAELens: the factor by which activations are scaled, if the folder does not hold it."),
]


@app.command("import")
def sae_import(
    source: Annotated[str, typer.Argument(help="A folder, or owner/name[@revision][:folder] on the hub.")],
    hookpoint: Annotated[
        str, typer.Option(help="The module that it reads; by default the one that the source names.")
    ] = "",
    model: Annotated[
        str | None, typer.Option(help="Diffusion model to check it against; by default the last run's.")
    ] = None,
    scale: Scale = None,
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Import an SAE of SAeUron, sparsify, SAELens or saeuron.

    Example: saeuron sae import bcywinski/SAeUron --hookpoint unet.up_blocks.1.attentions.1
    """
    from flows.sae.text import brought
    from tasks.exchange.interchange import bring

    made, imported, others = bring(workspace, source, hookpoint, model, scale)
    fields = {
        "id": made.id,
        **made.summary,
        "activation": imported.sae.info.activation,
        "folder": str(workspace / "artifacts" / "sae" / made.id),
        "others": others,
    }
    say(json.dumps(fields, indent=2) if as_json else "\n".join(brought(fields, workspace)))


@app.command("export")
def sae_export(
    sae: Named,
    format: Annotated[Literal["saeuron", "sparsify", "saelens"], typer.Option(help="Library to write the SAE for.")],
    out: Annotated[Path, typer.Option(callback=folder_out, help="A new or empty folder.")],
    hookpoint: Annotated[str, typer.Option(help="Name of the module in the folder; by default the SAE's own.")] = "",
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Write an SAE in the format of a library.

    That library can load the folder, which also holds a model card.

    Example: saeuron sae export sae_v2_3f --format saelens --out published
    """
    from flows.sae.text import exported
    from tasks.exchange.interchange import export, find

    found = find(workspace, sae, hookpoint)
    files = [str(path) for path in export(workspace, found, format, out)]
    if as_json:
        say(json.dumps({"sae": found.label, "format": format, "files": files}, indent=2))
    else:
        say("\n".join(exported(found, format, files)))


@app.command("info")
def sae_info(sae: Named, scale: Scale = None, workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """Describe an SAE: format, variant, sizes, norms.

    Example: saeuron sae info published/unet.mid_block
    """
    from flows.sae.text import info
    from tasks.exchange.interchange import find

    page = info(find(workspace, sae, scale=scale), workspace)
    say(json.dumps(page["fields"], indent=2) if as_json else "\n".join(page["lines"]))
