"""`saeuron removal`: publish removals."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Commands, Json, WorkspaceOption, folder_out, say

app = Commands(help="List and publish removals.")


@app.callback()
def removal() -> None:
    """List and publish removals."""


@app.command("export")
def removal_export(
    concept: Annotated[str, typer.Argument(help="Concept whose removal is exported.")],
    out: Annotated[Path, typer.Option(callback=folder_out, help="A new or empty folder.")],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Copy a concept's removal, with a model card.

    The card holds the removal's figures on test prompts.

    Example: saeuron removal export neon --out published
    """
    from flows.hints import command
    from tasks.exchange.cards import export_removal

    paths, measured = export_removal(workspace, concept, out)
    files = [str(path) for path in paths]
    if as_json:
        say(json.dumps({"concept": concept, "measured": measured, "files": files}, indent=2))
        return
    for file in files:
        say(f"wrote {file}")
    if measured:
        then = command("generate", "A PROMPT", "--remove", files[0], "--out", "image.png", workspace=workspace)
        say(f"next: {then}")
    else:
        say("it was not measured yet, and its card says so")
        say(f"next: {command('evaluate', concept, workspace=workspace)}")


@app.command("bake")
def removal_bake(
    name: Annotated[str, typer.Argument(help="CONCEPT, CONCEPT.METHOD, or a removal's file.")],
    out: Annotated[Path, typer.Option(callback=folder_out, help="A new or empty folder.")],
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Write a model with a removal folded into its weights.

    The folder holds a plain diffusers pipeline. Only changes of weights and constant directions can be folded, such as
    those of uce, procrustes, text_redirect and esd; for other removals one line says which part cannot be folded.

    Example: saeuron removal bake neon.uce --out canvas-without-neon
    """
    from flows.environment import prepare
    from flows.hints import command

    prepare(workspace, verbose=False)
    from tasks.exchange.bake import bake_removal

    removal = bake_removal(workspace, name, out)
    say(f"wrote {out}: the model without {removal.concept}; DiffusionPipeline.from_pretrained loads it")
    say(f"next: {command('bench', 'canvas', out, '--removed', removal.concept)}")
