"""Turn latents up and down, and print whether pictures follow, beside controls."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.hints import command
from flows.run import Run
from flows.sae.report import captured, sampling
from flows.summary import text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.figures.metrics import wilson
from storage import Workspace, connect
from storage.manifests import Manifest
from tasks.engine import model, progress
from tasks.engine.step import publish
from tasks.inspection.steer import PICTURE, SteerConfig, SteerJob, steer
from tasks.sae.page import newest

_RULES = """
SELECT latent, form, domain, concepts, confidence FROM explanations
WHERE explanation_id = ? AND sae_id = ? AND kind = 'trained' AND rule IS NOT NULL AND domain IS NOT NULL
ORDER BY confidence DESC, latent
"""
_FOUND = """
SELECT latent, rule, kind, split, alpha, on_target, off_target, odd, success, n
FROM steering WHERE list_contains(?::VARCHAR[], steering_id) AND split = 'test'
ORDER BY confidence DESC, latent, kind, alpha
"""
KINDS = ("latent", "random", "difference")


@flow(name="steer", flow_run_name="steer in {workspace}", validate_parameters=True)
def steer_flow(
    config: RunConfig,
    workspace: str,
    sae_id: str,
    latent: int | None = None,
    latents: int = 20,
    images: int = SteerConfig().images,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Steer one latent, or those whose rules are trusted most.

    Args:
        config: that of the workspace.
        workspace: where the SAE and its explanations are, and where the results go.
        sae_id: the SAE. latent: one of its latents; None: the `latents` most confident ones.
        images: see `SteerConfig`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"steering": ids, "rows": what each direction did on test images, "pictures", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("steer") as run_id:
        jobs = steer_jobs(run, opened.manifest(sae_id), latent, latents, images)
        for i, job in enumerate(jobs):
            progress.stage("steer", i, len(jobs))
            run.step(steer, job)
            run.publish(publish, job)
        progress.stage("steer", len(jobs), len(jobs))
    ids = [job.id for job in jobs]
    pictures = [job.places[PICTURE] for job in jobs]
    return {"run_id": run_id, "counts": run.counts, "steering": ids, "rows": told(opened, ids), "pictures": pictures}


def steer_jobs(run: Run, sae: Manifest, latent: int | None, latents: int, images: int) -> list[SteerJob]:
    """The jobs.

    Raises:
        ConfigError: the SAE was not explained, the latent has no rule of one domain, or that domain has no judge.
    """
    explained = newest(run.opened, "explanation", sae_id=sae.id)
    explain = command("sae", "explain", sae.id, workspace=run.opened)
    if explained is None:
        raise ConfigError(f"nothing says what the latents of {sae.id} fire on; run {explain} first.")
    with connect(run.opened) as views:
        found = views.execute(_RULES, [explained.id, sae.id]).fetchall()
    # A rule that every image fulfils cannot be an aim.
    present = run.domain_concepts
    found = [row for row in found if {*present.get(row[2], ())} - {*row[3]}]
    if latent is not None:
        found = [row for row in found if row[0] == latent]
        if not found:
            raise ConfigError(
                f"latent {latent} of {sae.id} has no rule of one domain that some images lack; take another."
            )
    if not found:
        raise ConfigError(
            f"no latent of {sae.id} has a rule of one domain that some images lack; run {explain} with more --images."
        )
    by = run.own_judges()
    chosen = found[:latents]
    if missing := sorted({row[2] for row in chosen} - by.keys()):
        raise ConfigError(
            f"no judge for {', '.join(missing)} (judge: none), so nothing says whether images follow; name a judge."
        )
    look = sampling(run, sae, captured(run.opened, sae))
    how = SteerConfig(images=images, read=look.read, look=look.half, half=run.config.tune.half)
    return [
        SteerJob(
            workspace=run.workspace,
            device=run.device,
            model=look.model,
            model_id=run.model_id,
            config=how,
            sae_id=sae.id,
            latent=i,
            form=form,
            values=tuple((domain, concept) for concept in concepts),
            confidence=confidence,
            prompts_id=explained.inputs["prompts"],
            judges=by,
        )
        for i, form, domain, concepts, confidence in chosen
    ]


def check(workspace: Workspace, config: RunConfig, sae: Manifest, latent: int | None, device: str) -> None:
    """Find a mistake before a server is started and a model loaded. Raises as `steer_jobs`."""
    steer_jobs(Run.of(workspace, config, device), sae, latent, 1, 1)


def told(workspace: Workspace, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Effects of each latent and its controls on test images, the most confident latent first."""
    with connect(workspace) as views:
        found = views.execute(_FOUND, [list(ids)])
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each latent at the alphas that validation images chose, and the share that succeeds, beside controls."""
    latents: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["kind"] == "latent":
            shown = latents.setdefault(row["latent"], {"latent": row["latent"], "rule": row["rule"]})
            sign = "+" if row["alpha"] > 0 else "-"
            shown[sign] = f"{abs(row['alpha']):g}"
            shown |= {f"{n}{sign}": row[c] for n, c in (("on", "on_target"), ("off", "off_target"), ("odd", "odd"))}
    header = ["latent", "rule", "+", "on+", "off+", "odd+", "-", "on-", "off-", "odd-"]
    n = max((row["n"] for row in rows), default=0)
    return [
        f"up (+) where the rule is not asked for, down (-) where it is; {n} images each",
        text_table(header, list(latents.values()), wrapped=["rule"]),
        "on: pictures follow; off: another domain changes; odd: out of the ordinary; %",
        "",
        *_successes(rows),
    ]


def _successes(rows: Sequence[dict[str, Any]]) -> list[str]:
    table = []
    for kind in KINDS:
        for sign, word in ((1, "up"), (-1, "down")):
            mine = [row["success"] for row in rows if row["kind"] == kind and row["alpha"] * sign > 0]
            known = [s for s in mine if s is not None]
            if known:
                low, high = wilson(sum(known), len(known))
                interval = f"{100 * low:.0f} to {100 * high:.0f}"
                share = sum(known) / len(known)
                table.append({"direction": kind, "turned": word, "succeeds": share, "95 %": interval, "n": len(known)})
    if not table:
        return ["whether that is a success cannot be said: not all of it is judged"]
    return [
        "success: on >= 50, off <= 10, odd <= 10; difference: of means, with labels",
        text_table(["direction", "turned", "succeeds", "95 %", "n"], table),
    ]
