"""Measure one SAE of a workspace, and print what was found."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from prefect import flow

from flows.run import Run
from flows.stages.prompts import prompts
from flows.summary import text_table
from saeuron.config import ModelConfig, RunConfig
from saeuron.errors import ConfigError
from saeuron.pages.contents import RANGES, Latent
from saeuron.pages.document import number, percent
from saeuron.sae.config import SAEConfig
from saeuron.sae.diagnosis import DiagnosisConfig
from storage import Workspace
from storage.manifests import Manifest
from storage.text import filled
from tasks.engine import model, progress
from tasks.explore.latents import Explained
from tasks.sae.page import Diagnosis, newest
from tasks.sae.report import DiagnosisJob, StabilityJob, diagnose, stability
from tasks.train import TrainJob, train

CONCEPTS = 10
"""Concepts in the list of one latent."""
_LEVELS = "▁▂▃▄▅▆▇█"


@flow(name="sae report", flow_run_name="sae report in {workspace}", validate_parameters=True)
def sae_report(
    config: RunConfig,
    workspace: str,
    sae_id: str,
    against: str | None = None,
    second_seed: bool = False,
    images: int = DiagnosisConfig().images,
    rows: int = DiagnosisConfig().rows,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Measure an SAE on held-out images, and how stable it is against another.

    Args:
        config: that of the workspace; how the SAE was trained is read from its own artifacts.
        workspace: where the SAE is, and where the results go.
        sae_id: the SAE.
        against: another SAE, to compare its decoder with.
        second_seed: train one with the next seed, and compare with that.
        images, rows: see `DiagnosisConfig`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"diagnosis": id, "stability": id of the newest comparison or None, "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sae report") as run_id:
        result = _stages(run, opened.manifest(sae_id), against, second_seed, images, rows)
    return {"run_id": run_id, "counts": run.counts, **result}


def _stages(
    run: Run, sae: Manifest, against: str | None, second_seed: bool, images: int, rows: int
) -> dict[str, str | None]:
    opened = Workspace.open(run.workspace)
    capture = captured(opened, sae)
    if second_seed:
        against = _next_seed(run, sae, capture)
    progress.stage("report", 0, 2)
    made = run.step(diagnose, diagnosis_job(run, sae, capture, images, rows))
    progress.stage("report", 1, 2)
    compared = None
    if against is not None:
        compared = run.step(stability, StabilityJob(workspace=run.workspace, sae_id=sae.id, against_id=against)).id
    elif earlier := newest(opened, "stability", sae_id=sae.id):
        compared = earlier.id
    progress.stage("report", 2, 2)
    return {"diagnosis": made.id, "stability": compared}


def captured(workspace: Workspace, sae: Manifest) -> Manifest | None:
    """The capture that an SAE was trained on; None if it is not here."""
    name = sae.inputs.get("capture")
    return workspace.read(name) if name and workspace.has(name) else None


class Sampling(NamedTuple):
    """How images are generated and read to measure an SAE."""

    model: ModelConfig
    half: Literal["conditional", "unconditional"] = "conditional"
    read: Literal["output", "update"] = "output"


def sampling(run: Run, sae: Manifest, capture: Manifest | None) -> Sampling:
    """The sampling of the SAE's training; for an SAE from elsewhere, that of the workspace's configuration.

    Raises:
        ConfigError: the workspace's configuration names another model than the SAE was trained on.
    """
    if capture is None:
        return Sampling(run.config.model)
    if capture.summary["model_id"] != run.model_id:
        raise ConfigError(
            f"{sae.id} was trained on the model {capture.summary['model_id']}, but the workspace's configuration "
            f"names {run.config.model.spec!r}, which is {run.model_id}; run the configuration of that model first."
        )
    taken = capture.config["config"]
    half: Literal["conditional", "unconditional"] = "conditional" if taken["half"] == "both" else taken["half"]
    return Sampling(ModelConfig(**capture.config["model"], spec=run.config.model.spec), half, taken["read"])


def diagnosis_job(run: Run, sae: Manifest, capture: Manifest | None, images: int, rows: int) -> DiagnosisJob:
    """The job that measures an SAE. Raises as `sampling`."""
    look = sampling(run, sae, capture)
    return DiagnosisJob(
        workspace=run.workspace,
        device=run.device,
        model=look.model,
        model_id=run.model_id,
        config=DiagnosisConfig(images=images, rows=rows, half=look.half, read=look.read),
        sae_id=sae.id,
        prompts_id=capture.inputs["prompts"] if capture is not None else prompts(run)[""].id,
    )


def _next_seed(run: Run, sae: Manifest, capture: Manifest | None) -> str:
    """Train the SAE again with the next seed; return its id.

    Raises:
        ConfigError: the activations are not there, or it was trained elsewhere.
    """
    if capture is None:
        raise ConfigError(
            f"--stability trains {sae.id} again, but the activations that it was trained on are not in this workspace; "
            "give another SAE of its hookpoint with --against."
        )
    config = SAEConfig.model_validate(sae.config["config"])
    progress.stage("train", 0, 1)
    job = TrainJob(
        workspace=run.workspace,
        device=run.device,
        config=config.model_copy(update={"seed": config.seed + 1}),
        hookpoint=sae.summary["hookpoint"],
        capture_id=capture.id,
    )
    made = run.step(train, job)
    progress.stage("train", 1, 1)
    return made.id


def check_latent(sae_id: str, n_latents: int, latent: int) -> None:
    """Raise `ConfigError` unless the SAE has such a latent."""
    if not 0 <= latent < n_latents:
        raise ConfigError(
            f"there is no latent {latent}: {sae_id} has {n_latents}; give a number from 0 to {n_latents - 1}."
        )


def figures(diagnosis: Diagnosis) -> list[str]:
    """The figures of an SAE in a few lines."""
    f = diagnosis.figures
    dark, own = f["dark_matter"], f["halves"][f["half"]]
    lines = [
        f"{diagnosis.sae_id} at {diagnosis.manifest.summary['hookpoint']}",
        f"FVU {own['fvu']:.4f}, L0 {own['l0']:.2f} on {f['images']} held-out images ({f['half']} half)",
        f"latents: {diagnosis.n_latents}, of them {f['dead']} dead and {f['always_on']} always on",
        f"linear share of the error: {percent(dark['encoder']['linear'])}; "
        f"FVU by gradient pursuit {dark['pursuit']['fvu']:.4f} (encoder, same rows: {dark['encoder']['fvu']:.4f})",
        f"denoising loss recovered: {percent(f['loss']['recovered'])}",
    ]
    if diagnosis.stability is not None:
        said = f"stability: mean max cosine {diagnosis.stability.mean():.3f}, {number(diagnosis.chance)} by chance"
        lines.append(f"{said}; encoders {diagnosis.encoder:.3f}; against {diagnosis.against}")
    return lines


def latent_lines(diagnosis: Diagnosis, latent: Latent, explained: Explained | None = None) -> list[str]:
    """One latent as text; what it fires on, where that was explained."""
    import math

    depth = f"log10 density {math.log10(latent.density):.2f}" if latent.density else "dead"
    lines = [
        f"latent {latent.latent} of {diagnosis.sae_id}",
        f"at {diagnosis.manifest.summary['hookpoint']}",
        f"fires on {100 * latent.density:.2f} % of rows ({depth}), in {percent(latent.image_density)} of images",
        f"mean {latent.mean:.4g}, largest {latent.maximum:.4g}"
        + (f", stability {latent.stability:.3f}" if latent.stability is not None else ""),
        f"mean at each step, {latent.timesteps[0]} to {latent.timesteps[-1]}: {sparkline(latent.profile)}",
        "nearest decoder rows: " + ", ".join(f"{i} ({cosine:.2f})" for i, cosine in latent.neighbours),
        *([filled(f"fires on: {explained.words}")] if explained else []),
        *([filled(f"described as: {explained.said}")] if explained and explained.said else []),
        "",
    ]
    if latent.scores:
        rows = [
            {
                "concept": s.concept,
                "domain": s.domain,
                "score": number(s.mean, "7.4f"),
                **{name: number(v, "7.4f") for name, v in zip(RANGES, s.by_range, strict=True)},
            }
            for s in latent.scores[:CONCEPTS]
        ]
        lines += [text_table(["concept", "domain", "score", *RANGES], rows)]
        if len(latent.scores) > CONCEPTS:
            lines.append(f"({CONCEPTS} of {len(latent.scores)} concepts, best first)")
    else:
        lines.append("not scored: `saeuron run` scores the concepts of a configuration")
    lines.append("")
    if latent.examples:
        examples = [
            {
                "rank": e.rank,
                "value": f"{e.value:.4g}",
                **{name: getattr(e, name) for name in ("timestep", "row", "column", "prompt")},
            }
            for e in latent.examples
        ]
        lines.append(text_table(["rank", "value", "timestep", "row", "column", "prompt"], examples, wrapped=["prompt"]))
        if latent.agreement:
            asked, shown = latent.agreement
            mark = "  (!) score and pictures disagree" if latent.contradicted else ""
            lines.append(f"{latent.scores[0].concept} is asked for in {asked} of the first {shown} pictures{mark}")
    else:
        lines.append("it fires on none of the held-out images")
    return lines


def sparkline(values: list[float] | Any) -> str:
    """Values from 0 to the largest as bars of eight heights."""
    most = max([*values, 0.0])
    return "".join(_LEVELS[min(round(7 * max(v, 0.0) / most), 7)] if most else _LEVELS[0] for v in values)


def latent_fields(latent: Latent) -> Mapping[str, Any]:
    """One latent as plain fields."""
    names = ("latent", "density", "image_density", "mean", "maximum", "max_cosine", "nearest", "stability")
    return {
        **{name: getattr(latent, name) for name in names},
        "profile": [{"timestep": t, "mean": v} for t, v in zip(latent.timesteps, latent.profile, strict=True)],
        "neighbours": [{"latent": i, "cosine": c} for i, c in latent.neighbours],
        "scores": [
            {"domain": s.domain, "concept": s.concept, "score": s.mean, **dict(zip(RANGES, s.by_range, strict=True))}
            for s in latent.scores
        ],
        "examples": [
            {
                "key": e.key,
                "rank": e.rank,
                "prompt": e.prompt,
                "value": e.value,
                "timestep": e.timestep,
                "row": e.row,
                "column": e.column,
            }
            for e in latent.examples
        ],
    }
