"""Compare a model with real pictures, and print what it draws too rarely, too often, and what it copies."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.run import Run
from flows.stages.prompts import prompts
from flows.summary import counted, text_table
from saeuron.blindspots.features import features
from saeuron.blindspots.samples import FromFolder, source
from saeuron.blindspots.unusual import FEWEST
from saeuron.config import RunConfig
from saeuron.figures.metrics import wilson
from saeuron.methods.removal import Removal
from saeuron.pipelines import loading as models
from storage import Workspace, connect, text
from tasks.engine import model
from tasks.engine.step import publish
from tasks.inspection.blindspots import FLAGGED, PICTURE, BlindspotsConfig, BlindspotsJob, blindspots

SHOWN = 8
"""Latents of each verdict that are printed."""
WORDS = {"suppressed": "too rarely", "exaggerated": "too often"}
CHANGED = {"suppressed": "less often", "exaggerated": "more often"}
_FLAGGED = f"""
SELECT latent, rule, f1, named, share, low, high, control_share, verdict,
    beside / nullif(beside + real, 0) AS beside, change, change_low, change_high, changed
FROM prevalence WHERE blindspots_id = ? AND (verdict IN {FLAGGED} OR changed IN {FLAGGED})
ORDER BY named DESC, abs(coalesce(change, share) - 0.5) DESC, latent
"""


@flow(name="blindspots", flow_run_name="blindspots in {workspace}", validate_parameters=True)
def blindspots_flow(
    config: RunConfig,
    workspace: str,
    real: str,
    captions: str,
    seeing: str,
    removals: list[str],
    pairs: int,
    device: str = "cpu",
    threads: int = 2,
    against: str = "",
) -> dict[str, Any]:
    """Compare one model with one source of real pictures.

    Args:
        config: the model and the prompts.
        workspace: where the results go.
        real: a renderer or a folder. captions: its table; empty: that of the folder.
        seeing: the vision model.
        removals: files of removals that are attached.
        pairs: real pictures, and generated ones.
        device: where models run. threads: torch threads on the CPU.
        against: a model that is drawn beside without the removals; empty: none.

    Returns:
        {"blindspots": id, "summary", "rows": latents that are flagged, "picture", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("blindspots") as run_id:
        job = blindspots_job(run, real, captions, seeing, removals, pairs, against)
        made = run.step(blindspots, job)
        run.publish(publish, job)
    return {"run_id": run_id, "counts": run.counts, "blindspots": made.id} | told(opened, made.id, job.places[PICTURE])


def blindspots_job(
    run: Run, real: str, captions: str, seeing: str, removals: Sequence[str], pairs: int, against: str = ""
) -> BlindspotsJob:
    """The job. Everything that it is made from is known by content.

    Raises as `saeuron.blindspots.samples.source` and `saeuron.blindspots.features.features`.
    """
    looked_at, files = source(real, captions), [Path(file) for file in removals]
    own = isinstance(looked_at, FromFolder) and looked_at.folder.table is not None
    loaded = [Removal.load(file) for file in files]
    names = tuple(f"{removal.concept} by {removal.method}" for removal in loaded)
    called = "_without_".join([Path(real).expanduser().resolve().name, "_".join(r.concept for r in loaded)])
    return BlindspotsJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=BlindspotsConfig(pairs=pairs),
        called=called.removesuffix("_without_"),
        real=real,
        captions=captions,
        real_id=looked_at.identity(),
        features=seeing,
        features_id=features(seeing, run.device).identity,
        prompts_id="" if own else prompts(run)[""].id,
        removals=tuple(str(file) for file in files),
        removal_names=names,
        against=against,
        against_id=models.identity(against) if against else "",
        removal_ids=tuple(hashlib.sha256(file.read_bytes()).hexdigest()[:20] for file in files),
    )


def told(workspace: Workspace, blindspots_id: str, picture: str) -> dict[str, Any]:
    """The printed parts of an artifact: its summary, and flagged latents, those with a name first."""
    with connect(workspace) as views:
        found = views.execute(_FLAGGED, [blindspots_id])
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {"summary": workspace.manifest(blindspots_id).summary, "rows": rows, "picture": picture}


def lines(found: dict[str, Any]) -> list[str]:
    """The flagged latents of either kind, the control, copies and pictures out of the ordinary."""
    about, rows = found["summary"], found["rows"]
    sides = "a real one beside each" if about["paired"] else "no real one belongs to one of them"
    without = f" without {', '.join(about['removals'])}" if about["removals"] else ""
    result = [
        text.filled(
            f"{counted(about['generated_pictures'], 'picture')} generated{without}, "
            f"{about['real_pictures']} real from {about['real']}; {sides}"
        ),
        f"{about['latents']} latents of {about['features']} features, {about['named']} with a name; "
        f"{100 * about['fvu']:.0f} % not rebuilt",
    ]
    if about["against"]:
        result += [
            "",
            text.filled(f"against {about['against']} without removals, same prompts and noise; share of pictures"),
        ]
        for verdict in FLAGGED:
            mine = [row for row in rows if row["changed"] == verdict]
            shown = [_shown(row, row["change"], row["change_low"], row["change_high"]) for row in mine[:SHOWN]]
            result += _table(f"drawn {CHANGED[verdict]}", len(mine), [], shown)
        result += ["", "against real pictures; beside: the share of the model without removals"]
    for verdict in FLAGGED:
        mine = sorted(
            (row for row in rows if row["verdict"] == verdict), key=lambda r: (not r["named"], -abs(r["share"] - 0.5))
        )
        shown = [
            _shown(row, row["share"], row["low"], row["high"])
            | {"beside": row["beside"], "control": row["control_share"]}
            for row in mine[:SHOWN]
        ]
        more = ["beside"] * bool(about["against"]) + ["control"]
        result += _table(f"drawn {WORDS[verdict]}", len(mine), more, shown)
    return [*result, "", *_controls(about)]


def _shown(row: dict[str, Any], share: float, low: float, high: float) -> dict[str, Any]:
    """The cells of a latent."""
    named = row["named"]
    about = {"latent": row["latent"], "rule": row["rule"] if named else "no name", "F1": row["f1"] if named else None}
    return about | {"share": share, "95 %": f"{100 * low:.0f} to {100 * high:.0f}"}


def _table(title: str, count: int, more: list[str], shown: list[dict[str, Any]]) -> list[str]:
    """A heading with the number of latents, and the first of them."""
    if not shown:
        return ["", f"{title}: nothing"]
    heading = f"{title}: {counted(count, 'latent')}, those with a name first; %"
    return ["", heading, text_table(["latent", "rule", "F1", "share", "95 %", *more], shown, wrapped=["rule"])]


def _controls(about: dict[str, Any]) -> list[str]:
    share = f"{about['control']} of {about['latents']} latents flagged"
    copies = _share(about["copies"], about["generated_pictures"])
    if about["unusual"] is None:
        held_out = counted(about["held_out"], "real picture")
        odd = f"out of the ordinary: not judged; {held_out} held out, a threshold of 1 % takes {FEWEST}: give more"
    else:
        made = _share(about["unusual"], about["generated_pictures"])
        odd = f"out of the ordinary, where 1 % of new real ones are: {made} of generated pictures"
        odd += f"; of new real ones {_share(about['unusual_new'], n)}" if (n := about["new_pictures"]) else ""
    return [
        "share: generated / (generated + real), 50 is as often; q <= 5 %",
        f"control: real pictures on either side, {about['control_pictures']} each: {share}",
        text.filled(f"copies, nearer to a real picture than other real ones are: {copies}"),
        text.filled(odd),
    ]


def _share(count: int, n: int) -> str:
    low, high = wilson(count, n)
    return f"{100 * count / n:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
