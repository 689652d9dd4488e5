"""The cost of one more concept beside many, and of a run with nothing to do.

    python -m benchmarks.cost.many_concepts --concepts 5 50 500

*One more*: the steps score and tune of the style `grain` of canvas20, beside a workspace of so many styles, over
generating and encoding the same images with nothing around it, in turns. SAEs are random (training is left out), the
other styles' statistics are invented, by the real writers. The evaluation, of a size that the user sets, is left out.
Packs are measured apart: one is written with every eighth concept (`storage.statistics.packs`), each concept is in
about 1 + log2(concepts / 8) of them over time, and that is its share.

*Nothing to do*: `saeuron run` on a workspace of so many concepts whose artifacts are all there, contents aside. Its
processor seconds say what the figure would be on a machine with nothing else to do.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.results import Figure, parser, show
from flows.config import load
from saeuron.config import RunConfig
from storage import Workspace
from storage.identity import artifact_id
from storage.statistics.packs import LOOSE
from storage.statistics.sums import Sums, write_statistics

CONCEPT, DOMAIN = "grain", "style"


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--concepts", type=int, nargs="+", default=[5, 50, 500])
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--latents", type=int, help="of each SAE; default: as canvas20.yaml says")
    options = arguments.parse_args()
    figures = []
    for count in options.concepts:
        with tempfile.TemporaryDirectory() as folder:
            figures += _one_more(Path(folder), count, options.repeats, options.threads, options.latents)
        with tempfile.TemporaryDirectory() as folder:
            figures += _nothing_to_do(Path(folder), count)
    show(figures, options.json)


def _one_more(root: Path, count: int, repeats: int, threads: int, latents: int | None) -> list[Figure]:
    from saeuron import judges, methods
    from saeuron.generation import generate
    from saeuron.hooks import attached, width
    from saeuron.pipelines.loading import identity
    from saeuron.sae.autoencoder import SAE, SAEInfo
    from saeuron.scoring import Accumulator, images
    from saeuron.tuning import validation_images
    from tasks import packs, prompts, score, totals, trials, tune
    from tasks.engine import model
    from tasks.engine.judge import DomainJudge

    config = load("canvas20", [f"tune.concepts=[{CONCEPT}]", f"domains.{DOMAIN}.concepts=[neon, dots, {CONCEPT}]"])
    domain = config.domains[DOMAIN]
    model.set_threads(threads)
    pipe = model.pipeline(config.model, "cpu")
    workspace = Workspace.open(root / "workspace")
    where: dict[str, Any] = {"workspace": workspace.root}
    same = {"model": config.model, "model_id": identity(config.model.spec)}
    made = prompts.prompts.fn(prompts.PromptsJob(**where, config=config.prompts, domains=config.domains))
    found = prompts.read(workspace, made.id)
    saes = {}
    for hookpoint in domain.hookpoints:
        wide = width(pipe, hookpoint) or 0
        info = SAEInfo("topk", wide, latents or config.train.latents(wide), config.train.k, hookpoint)
        saes[hookpoint] = _committed(workspace, "sae", SAE(info).save, hookpoint, info.__dict__)
    # Retained images are asked for by the styles that have prompts; the statistics of all go into the profile.
    names = ["neon", "dots", *(f"style {i}" for i in range(count - 3))]
    steps = np.asarray(
        pipe.scheduler.timesteps if len(pipe.scheduler.timesteps) == config.model.steps else [], np.int32
    )
    if not len(steps):
        pipe.scheduler.set_timesteps(config.model.steps)
        steps = np.asarray(pipe.scheduler.timesteps, np.int32)
    reference = {}
    for name in names:

        def write(folder: Path, name: str = name) -> None:
            for hookpoint, sae in saes.items():
                info = SAE.load(workspace.folder(sae)).info
                write_statistics(folder / hookpoint, _invented(steps, info.n_latents, name))

        reference[name] = _committed(workspace, "score", write, name, {})
    wanted = images(found, config.score, DOMAIN, CONCEPT, domain.score_on)
    own = score.ScoreJob(
        **where, **same, config=config.score, domain=DOMAIN, concept=CONCEPT, score_on=domain.score_on,
        prompts_id=made.id, images_id=prompts.images_id(wanted), saes=saes,
    )  # fmt: skip
    settings = methods.get("saeuron").candidates(config.grid(DOMAIN, "saeuron"))
    chosen = judges.create("canvas20", DOMAIN)
    judge = DomainJudge(spec="canvas20", id=chosen.identity, labels=judges.choices(chosen, ()))
    tried = validation_images(found, config.tune, DOMAIN, CONCEPT, {*reference, CONCEPT})

    def add_up(scores: Any) -> dict[str, str]:
        jobs = (
            totals.TotalsJob(**where, domain=DOMAIN, hookpoint=h, sae_id=i, scores=tuple(sorted(scores)))
            for h, i in saes.items()
        )
        known = workspace.artifacts("totals")
        return {j.hookpoint: totals.totals.fn(j.based(known, workspace.has)).id for j in jobs}

    # As a run leaves them: the domain before the concept joins it.
    add_up(reference.values())

    def ours() -> None:
        mine = score.score.fn(own)
        sums = add_up([*reference.values(), mine.id])
        candidates = trials.TrialsJob(
            **where, **same, config=config.tune, domain=DOMAIN, concept=CONCEPT, method="saeuron",
            candidates=tuple(settings), reference=(*reference, CONCEPT), prompts_ids=(made.id,),
            images_id=prompts.images_id(tried), hookpoints=tuple(saes), saes=saes,
            scores={**reference, CONCEPT: mine.id}, totals=sums,
        )  # fmt: skip
        job = tune.TuneJob(
            **where, trials=candidates, trials_id=candidates.id, domain=DOMAIN, concept=CONCEPT, method="saeuron",
            domains=(DOMAIN,), judges={DOMAIN: judge},
        )  # fmt: skip
        trials.trials.fn(candidates)
        tune.tune.fn(job)
        workspace.delete(job.id)
        workspace.delete(candidates.id)
        workspace.delete(own.id)
        for each in sums.values():
            workspace.delete(each)

    def bare() -> None:
        readers = {h: Accumulator(SAE.load(workspace.folder(i)), config.score.half) for h, i in saes.items()}
        with attached(pipe, readers=readers):
            for _ in generate(pipe, wanted, config.model, config.score.seed):
                pass
        # Once without a removal, then once for each setting that is tried.
        for _ in range(1 + len(settings)):
            for _ in generate(pipe, tried, config.model, config.tune.seed):
                pass

    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(repeats + 1):
        for name, call in (("ours", ours), ("bare", bare)):
            start = time.perf_counter()
            call()
            if turn:  # the first loads what is loaded once
                times[name].append(time.perf_counter() - start)
    start = time.perf_counter()
    for hookpoint, sae in saes.items():
        members = tuple(sorted(reference.values()))
        packs.packs.fn(packs.PacksJob(**where, hookpoint=hookpoint, sae_id=sae, scores=members))
    packed = time.perf_counter() - start
    share = packed / len(reference) * (1 + max(0.0, math.log2(len(reference) / LOOSE)))
    ratios = [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
    seconds, least = statistics.median(times["ours"]), statistics.median(times["bare"])
    return [
        Figure(f"{count} concepts: one more", seconds, "s", least, statistics.median(ratios)),
        Figure("  ratio, least", min(ratios), "1", 1.10),
        Figure("  ratio, most", max(ratios), "1", 1.10),
        Figure("  packs, its share", share, "s", least, share / least),
        Figure("  packs, where all are written", packed, "s"),
    ]


def _invented(steps: Any, latents: int, name: str) -> Sums:
    random = np.random.default_rng(sum(name.encode()))
    shape = (len(steps), latents)
    fires = random.integers(0, 50, shape).astype(np.uint64)
    sums = (fires * random.integers(1, 1 << 24, shape).astype(np.uint64)).astype(np.int64)
    return Sums(
        timesteps=steps, fires=fires, image_fires=fires.astype(np.uint32), sum_fixed=sums, sumsq_fixed=sums,
        max=random.random(shape, np.float32), n_rows=np.full(len(steps), 2560, np.uint64),
        n_images=np.full(len(steps), 40, np.uint32),
    )  # fmt: skip


def _committed(workspace: Workspace, stage: str, write: Any, name: str, about: dict[str, Any]) -> str:
    made = artifact_id(stage, 2, {"name": name})
    workspace.folder(made).mkdir(parents=True)
    write(workspace.folder(made))
    workspace.commit(made, config={"name": name}, inputs={}, summary={"saes": [], **about}, seconds=1.0)
    return made


def _nothing_to_do(root: Path, count: int) -> list[Figure]:
    base = load("canvas20", ["domains.object.judge=none", "evaluate.seeds=1", "tune.concepts=null"])
    names = [f"style {i}" for i in range(count)]
    domain = base.domains[DOMAIN].model_copy(update={"concepts": tuple(names), "judge": "none"})
    objects = base.domains["object"].model_copy(update={"concepts": ("circle", "square")})
    config = base.model_copy(update={"domains": {DOMAIN: domain, "object": objects}})
    workspace = _made_up(root / "workspace", config)
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    command = [sys.executable, "-m", "flows.cli", "run", str(file), "--workspace", str(workspace.root), "--json"]
    # The first puts removals and pictures where people look for them.
    for _ in range(2):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit("the run that has nothing to do did not end well")
    return [
        Figure(f"{count} concepts: nothing to do", time.perf_counter() - start, "s", 8.0),
        Figure("  its processor", usage.ru_utime + usage.ru_stime, "s"),
        Figure("  artifacts in place", len(workspace.folders()), ""),
    ]


def _made_up(root: Path, config: RunConfig) -> Workspace:
    """A workspace in which everything that a run of `config` makes is there, contents aside."""
    from flows.plan import Plan

    workspace, jobs, step = Workspace.open(root), {}, Plan.step

    class Watching(Plan):
        def step(self, task: Any, job: Any, *args: int, **how: Any) -> Any:
            jobs[job.id] = job
            return step(self, task, job, *args, **how)

    from flows.pipeline import stages

    # Twice: what an evaluation is of is known once its removal is there.
    for _ in range(2):
        run = Watching.of(workspace, config, "cpu")
        stages(run)
        for planned in run.planned.values():
            if planned.cached:
                continue
            job = jobs[planned.id]
            concept = getattr(job, "concept", "")
            for name in ("removal.safetensors", "sheet.png", "scores.png"):
                job.folder.mkdir(parents=True, exist_ok=True)
                (job.folder / name).write_bytes(planned.id.encode())
            summaries: dict[str, dict[str, Any]] = {
                "removal": {
                    "settings": {"n": 4, "gamma": -1.0},
                    "concept": concept,
                    "method": "saeuron",
                    "domain": DOMAIN,
                },
                "score": {"saes": []},
                "capture": {"hookpoint": job.label, "model_id": run.model_id, "width": 128},
            }
            workspace.commit(job.id, config=job.identity, inputs={}, summary=summaries.get(job.stage, {}), seconds=1.0)

    return workspace


if __name__ == "__main__":
    main()
