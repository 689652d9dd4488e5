"""`saeuron sae report | prove | explain`, `latent show`: measure an SAE, beside controls, or show one latent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import (
    WORKSPACE,
    Commands,
    Device,
    Json,
    Threads,
    Verbose,
    WorkspaceOption,
    console_for,
    file_out,
    say,
)
from saeuron.errors import ConfigError

if TYPE_CHECKING:
    from storage import Workspace
    from storage.manifests import Manifest
    from tasks.sae.page import Diagnosis

latents = Commands(help="Show and steer single latents of an SAE.")

Named = Annotated[str, typer.Argument(metavar="ID", help="The SAE: its id, a prefix of the id, or its hookpoint.")]


def report(
    sae: Named,
    against: Annotated[str | None, typer.Option(help="Another SAE to compare its decoder with.")] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Train another SAE with the next seed and compare with it.")
    ] = False,
    images: Annotated[int, typer.Option(min=2, help="Held-out images to generate.")] = 256,
    rows: Annotated[int, typer.Option(min=2, help="Rows of activations kept for the analysis of the error.")] = 16384,
    out: Annotated[
        Path | None,
        typer.Option(callback=file_out(".html", ".htm"), help="The HTML file; in the workspace's reports by default."),
    ] = None,
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
    diagnosis = _measured(sae, workspace, device, threads, verbose, as_json, against, stability, images, rows)
    from flows.hints import command
    from flows.sae.report import figures
    from tasks.sae.page import write_page

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


def prove(
    sae: Named,
    images: Annotated[
        int | None, typer.Option(min=2, help="Images of each set; by default 1000 for naming, 260 for other tests.")
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(help="naming (the default), approximation, control, occlusion, width or all; repeatable."),
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare an SAE's latents with untrained ones, and with labels.

    For each concept, the latent that names it best is chosen on validation images and judged on test images. The same
    is done with an SAE that was never trained, one with a frozen decoder, single coordinates, and differences of means.
    `saeuron sql "select * from dictionary"` has every concept.

    Other tests compare with dictionaries made from labels (view `proofs`): what the model loses when the reconstruction
    replaces the activations (approximation); whether a few latents change what is drawn (control); whether a loud
    attribute hides a quiet one (occlusion); what more latents change (width). The last two train SAEs.

    Example: saeuron sae prove unet.up_blocks.0.attentions.1
    """
    from flows.sae.proof_tests import check, chosen

    tests = chosen(test or ())
    opened, found = _opened(sae, workspace, device, threads, verbose)
    from flows.display import on_prefect
    from flows.sae.proof_tests import lines as told
    from flows.sae.prove import lines, sae_prove
    from tasks.registry import runs

    config = runs.remembered(opened)
    check(opened, config, found, tests, device)
    with on_prefect(console_for(as_json)):
        made = sae_prove(config, str(opened.root), found.id, images, tests, device=device, threads=threads)
    if as_json:
        page = {"sae": found.id, **{name: made[name] for name in ("proof", "figures", "tests")}}
        say(json.dumps(page, indent=2))
        return
    from flows.hints import command

    parts = [lines(found, made["figures"])] if made["proof"] else [[f"{found.id} at {found.summary['hookpoint']}"]]
    say("\n\n".join("\n".join(part) for part in [*parts, *(told(name, rows) for name, rows in made["tests"].items())]))
    view = "dictionary" if made["proof"] else "proofs"
    query = f"select * from {view} where sae_id = '{found.id}'" + (" order by f1" if made["proof"] else "")
    say(f"next: {command('sql', query, workspace=workspace)}")


def explain(
    sae: Named,
    images: Annotated[int, typer.Option(min=2, help="Images of each of the two sets.")] = 600,
    export: Annotated[
        Path | None, typer.Option(callback=file_out(), help="Write one line of JSON for each latent to this file.")
    ] = None,
    descriptions: Annotated[
        Path | None,
        typer.Option("--import", exists=True, dir_okay=False, help="Judge the descriptions in a file of such lines."),
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Say in words what each latent of an SAE fires on.

    For each latent a rule about what images show, such as `style is neon` or `object is cat or dog`, is chosen on
    validation images and judged on test images by precision, recall and a confidence. Controls: an SAE that was never
    trained, one with a frozen decoder, single coordinates, and rules chosen from shuffled labels. `saeuron sql "select
    * from explanations"` has every latent.

    With --import, descriptions by people or language models are judged on the same test images. Each is one line of
    JSON with the latent, the description and its claim: {"latent": 3, "description": "glowing lines", "concepts":
    {"style": ["neon"]}}.

    Example: saeuron sae explain unet.up_blocks.0.attentions.1
    """
    opened, found = _opened(sae, workspace, device, threads, verbose)
    from flows.display import on_prefect
    from flows.sae.explain import lines, sae_explain
    from tasks.registry import runs

    config = runs.remembered(opened)
    if descriptions is not None:
        from flows.sae import describe

        describe.check(opened, config, found, descriptions, device)
        with on_prefect(console_for(as_json)):
            told = describe.describe_flow(config, str(opened.root), found.id, str(descriptions), device, threads)
        page = {"sae": found.id, "description": told["description"], "rows": told["rows"]}
        say(json.dumps(page, indent=2) if as_json else "\n".join(describe.lines(told["rows"])))
        return
    with on_prefect(console_for(as_json)):
        made = sae_explain(config, str(opened.root), found.id, images, device=device, threads=threads)
    if export is not None:
        from flows.sae.describe import export as write

        write(opened, found.id, made["explanation"], export)
    if as_json:
        say(json.dumps({"sae": found.id, "explanation": made["explanation"], "figures": made["figures"]}, indent=2))
        return
    from flows.hints import command

    say("\n".join(lines(opened, made["explanation"], made["figures"])))
    if export is not None:
        say(f"descriptions: {export}")
    query = f"select latent, rule, confidence from explanations where sae_id = '{found.id}' order by confidence desc"
    say(f"next: {command('sql', query, workspace=workspace)}")


@latents.command("show")
def latent_show(
    sae: Named,
    latent: Annotated[int, typer.Argument(metavar="LATENT", help="Number of the latent, from 0.")],
    out: Annotated[
        Path | None, typer.Option(callback=file_out(".png"), help="The PNG; in the workspace's pictures by default.")
    ] = None,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Show which words and heads make it fire; only at a cross-attention.")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show one latent: density, concepts, neighbours, images.

    Also writes a PNG of the images on which it fires most. The figures are those of the last `saeuron sae report`; if
    there is none, the SAE is measured first.

    Example: saeuron latent show unet.up_blocks.0.attentions.1 12 --out latent.png
    """
    if attribution:
        from flows.inspection.attribute import check
        from tasks.registry import runs

        opened, named = _opened(sae, workspace, device, threads, verbose)
        check(runs.remembered(opened), named, device)
    diagnosis = _measured(sae, workspace, device, threads, verbose, as_json, latent=latent)
    from dataclasses import asdict

    from flows.sae.report import latent_fields, latent_lines
    from tasks.explore import latents as of
    from tasks.explore.shelf import Shelf
    from tasks.sae.page import write_sheet

    [found] = diagnosis.describe([latent], near=True)
    path = write_sheet(diagnosis, found, out or diagnosis.workspace.pictures / f"{diagnosis.sae_id}_{latent}.png")
    words = _attributed(diagnosis, latent, device, threads, as_json) if attribution else {}
    explained = of.explained(Shelf(diagnosis.workspace), diagnosis.sae_id, latent)
    if as_json:
        told = {"sae": diagnosis.sae_id, **latent_fields(found), "explained": asdict(explained) if explained else None}
        say(json.dumps({**told, "picture": str(path), **words}, indent=2))
    else:
        say("\n".join(latent_lines(diagnosis, found, explained)))
        say(f"picture: {path}")
        if attribution:
            from flows.inspection.attribute import lines

            say("\n".join(lines(words)))


def _attributed(diagnosis: "Diagnosis", latent: int, device: str, threads: int, as_json: bool) -> dict[str, Any]:
    """The result of `attribution_flow`, without the run's id and counts."""
    from flows.display import on_prefect
    from flows.inspection.attribute import attribution_flow
    from tasks.registry import runs

    workspace = diagnosis.workspace
    with on_prefect(console_for(as_json)):
        made = attribution_flow(
            runs.remembered(workspace), str(workspace.root), diagnosis.sae_id, latent, device=device, threads=threads
        )
    return {name: value for name, value in made.items() if name not in ("run_id", "counts")}


def _opened(sae: str, workspace: Path, device: str, threads: int, verbose: bool) -> tuple["Workspace", "Manifest"]:
    """The workspace, and one SAE of it; everything is prepared for a flow."""
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from storage import Workspace

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    check_device(device)
    from tasks.engine import model
    from tasks.registry.saes import find

    model.set_threads(threads)
    return opened, find(opened, sae)


def _measured(
    sae: str,
    workspace: Path,
    device: str,
    threads: int,
    verbose: bool,
    as_json: bool,
    *asked: Any,
    latent: int | None = None,
) -> "Diagnosis":
    """The diagnosis of an SAE, made if missing; without `asked` (options of `sae_report`), the newest one.

    Raises:
        ConfigError: the SAE does not have `latent`; nothing is measured then.
    """
    opened, found = _opened(sae, workspace, device, threads, verbose)
    from flows.sae.report import check_latent, sae_report
    from tasks.sae.report import check_widths

    if latent is not None:
        check_latent(found.id, found.summary["n_latents"], latent)
    from tasks.registry import runs
    from tasks.registry.saes import find
    from tasks.sae.page import Diagnosis, newest

    against, *rest = asked or (None,)
    other = None
    if against is not None:
        chosen = find(opened, against)
        check_widths(found.id, found.summary["width"], chosen.id, chosen.summary["width"])
        other = chosen.id
    there = newest(opened, "diagnosis", sae_id=found.id)
    if there is not None and not asked:
        compared = newest(opened, "stability", sae_id=found.id)
        return Diagnosis(opened, there.id, compared.id if compared else None)
    from flows.display import on_prefect

    config = runs.remembered(opened)
    with on_prefect(console_for(as_json)):
        made = sae_report(config, str(opened.root), found.id, other, *rest, device=device, threads=threads)
    return Diagnosis(opened, made["diagnosis"], made["stability"])
