"""Questions to statistics as large as SD 1.5's: 50 concepts x 50 steps x 20,480 latents, 51 million rows.

    python -m benchmarks.data.statistics
    python -m benchmarks.data.statistics --concepts 5 --steps 10 --latents 4096      # seconds, to try it

The workspace is made by the real writers, of invented sums: most latents silent, the rest spread over three decades.
Each question is asked through `storage.connect`, first with the files out of the page cache (cold: connecting
included), then again and again on one connection (warm: the median; answers are fetched). `baseline` is the limit. The
processor's seconds, of all threads, say what the figure would be on a machine with nothing else to do.
"""

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.results import Figure, parser, show
from storage import Workspace, connect
from storage.identity import artifact_id
from storage.statistics.sums import FIXED_POINT, Sums, write_statistics
from tasks.packs import PacksJob, packs
from tasks.totals import TotalsJob, totals

HOOKPOINT = "unet.up_blocks.1.attentions.1"


class Question(NamedTuple):
    """A query and its limit in seconds."""

    name: str
    sql: str
    limit: float | None


QUESTIONS = (
    Question("all scores", "select count(*), sum(score), max(score) from scores", 10.0),
    Question(
        "top 32 of a concept and step",
        "select latent, score, mean, mean_other from top_latents "
        "where concept = 'concept 0' and timestep = {step} order by rank",
        0.025,
    ),
    Question(
        "page of a latent",
        "select concept, timestep, fires, image_fires, mean, max from statistics_by_latent where latent = {latent}",
        0.025,
    ),
    Question(
        "  the same of statistics, in the order of steps",
        "select concept, timestep, fires, image_fires, mean, max from statistics where latent = {latent}",
        None,
    ),
    Question("  the same of its scores", "select concept, timestep, score from scores where latent = {latent}", None),
)


def main() -> None:
    """Make, measure, print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--concepts", type=int, default=50)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--latents", type=int, default=20480)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=15, help="warm runs of a quick question; 3 of a slow one")
    arguments.add_argument("--workspace", type=Path, help="make it here and keep it; or use what is here")
    options = arguments.parse_args()
    with ExitStack() as stack:
        root = options.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saeuron-statistics-")))
        workspace, derived, start = Workspace.open(root), [], time.perf_counter()
        if not workspace.folders():
            names = make(workspace, options.concepts, options.steps, options.latents)
            wrote = time.perf_counter() - start
            derived = [Figure("writing", wrote, "s"), *_derived(workspace, names)]
        files = list((root / "artifacts").rglob("*.parquet"))
        rows = options.concepts * options.steps * options.latents
        size = sum(path.stat().st_size for path in files)
        figures = [
            Figure("rows", rows, "rows"),
            Figure("bytes a row", size / rows, "bytes"),
            *derived,
        ]
        for question in QUESTIONS:
            sql = question.sql.format(step=20 * (options.steps // 2), latent=options.latents // 2)
            figures += _asked(root, files, question._replace(sql=sql), options.threads, options.repeats)
    show(figures, options.json)


def make(workspace: Workspace, concepts: int, steps: int, latents: int, sae: str = "sae") -> list[str]:
    """Score artifacts of so many styles, of invented sums; returns their ids."""
    rng = np.random.default_rng(0)
    shape, names = (steps, latents), []
    for index in range(concepts):
        awake = rng.random(shape, dtype=np.float32) < 0.3
        mean = np.where(awake, np.exp(rng.normal(-3, 2, shape)), 0)
        rows = np.full(steps, 20 * 64, np.uint64)
        fires = np.minimum(np.where(awake, 1 + mean * 400, 0), rows[0]).astype(np.uint64)
        sums = Sums(
            timesteps=np.arange(steps, dtype=np.int32) * 20,
            fires=fires,
            image_fires=np.minimum(fires, 20).astype(np.uint32),
            sum_fixed=np.rint(mean * float(rows[0]) * FIXED_POINT).astype(np.int64),
            sumsq_fixed=np.rint(mean**2 * float(rows[0]) * FIXED_POINT).astype(np.int64),
            max=(mean * 4).astype(np.float32),
            n_rows=rows,
            n_images=np.full(steps, 20, np.uint32),
        )
        about = {"domain": "style", "concept": f"concept {index}", "protocol": "p", "model_id": "m"}
        name = artifact_id("score", 1, about)
        write_statistics(workspace.folder(name) / HOOKPOINT, sums)
        saes = [{"sae_id": sae, "hookpoint": HOOKPOINT, "folder": HOOKPOINT, "n_images": 20}]
        names.append(name)
        workspace.commit(
            name, config={}, inputs={}, summary={**about, "half": "conditional", "saes": saes}, seconds=1.0
        )
    return names


def _derived(workspace: Workspace, names: list[str]) -> list[Figure]:
    """Cost of totals and packs: for one more concept, and for all."""
    place = {"workspace": workspace.root, "hookpoint": HOOKPOINT, "sae_id": "sae"}
    took = []
    for scores in (names[:-1], names):
        job = TotalsJob(**place, domain="style", scores=tuple(sorted(scores)))
        start = time.perf_counter()
        totals.fn(job.based(workspace.artifacts("totals"), workspace.has))
        took.append(time.perf_counter() - start)
    start = time.perf_counter()
    packs.fn(PacksJob(**place, scores=tuple(sorted(names))))
    pack = time.perf_counter() - start
    return [
        Figure("totals of all concepts but one", took[0], "s"),
        Figure("  of one concept more", took[1], "s"),
        Figure("pack of all concepts", pack, "s"),
    ]


def _asked(root: Path, files: list[Path], question: Question, threads: int, repeats: int) -> list[Figure]:
    for path in files:
        _drop(path)
    start = time.perf_counter()
    with connect(root, threads=threads) as connection:
        connecting = time.perf_counter() - start
        rows = len(connection.execute(question.sql).fetchall())
        cold = time.perf_counter() - start
        times, work = list[float](), list[float]()
        while len(times) < (3 if cold > 2 else repeats):
            start, worked = time.perf_counter(), time.process_time()
            connection.execute(question.sql).fetchall()
            times.append(time.perf_counter() - start)
            work.append(time.process_time() - worked)
    slow = max(times) > 2
    scale, unit = (1, "s") if slow else (1000, "ms")
    warm, limit = statistics.median(times), question.limit
    return [
        Figure(f"{question.name} ({rows} rows)", scale * warm, unit, limit and scale * limit, limit and warm / limit),
        Figure("  fastest", scale * min(times), unit),
        Figure("  slowest", scale * max(times), unit),
        Figure("  processor", scale * statistics.median(work), unit),
        Figure("  cold, with connecting", scale * cold, unit),
        Figure("  connecting", scale * connecting, unit),
    ]


def _drop(path: Path) -> None:
    """Take the file out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
