"""How long a page of the explorer takes, in a workspace of 500 concepts and SAEs of 20,480 latents.

    python -m benchmarks.data.explorer
    python -m benchmarks.data.explorer --concepts 20 --latents 2048       # seconds, to try it

The workspace is made by the real writers, of invented sums, images and judgements; every concept has a removal that was
evaluated. Pages are asked for in this process (FastAPI's client), so that no network is measured: the first view of a
page, and the median of others of its kind. `baseline` is the limit. The processor's time says what the figure would be
on a machine with nothing else to do.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from benchmarks.data.statistics import HOOKPOINT, make
from benchmarks.results import Figure, parser, show
from flows.config import load
from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from saeuron.figures.damage import confusion, damage
from saeuron.figures.metrics import Judged, evaluate, summary
from saeuron.pages.pictures import png_of
from saeuron.sae.autoencoder import SAE, SAEInfo
from storage import Workspace
from storage.catalog.diagnosis import FILES, MAPS, write_examples
from storage.dense import shards
from storage.files import write_json
from storage.identity import artifact_id
from storage.tables import (
    CONFUSION,
    DAMAGE,
    GRID,
    IMAGES,
    JUDGEMENTS,
    METRICS,
    PROMPTS,
    REMOVAL_LATENTS,
    table,
    write_table,
)
from tasks.explore.concepts import every
from tasks.explore.studio import Studio
from tasks.packs import PacksJob, packs
from tasks.registry import runs
from tasks.totals import TotalsJob, totals

LIMIT = 300.0
"""Milliseconds."""
WIDTH, EXAMPLES, GRID_SIDE = 320, 8, 8


def main() -> None:
    """Make, measure, print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--concepts", type=int, default=500)
    arguments.add_argument("--steps", type=int, default=4, help="steps that were scored")
    arguments.add_argument("--latents", type=int, default=20480)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--workspace", type=Path, help="make it here and keep it; or use what is here")
    options = arguments.parse_args()
    with ExitStack() as stack:
        root = options.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saeuron-explorer-")))
        workspace = Workspace.open(root)
        if not workspace.folders():
            _made(workspace, options.concepts, options.steps, options.latents)
        start = time.perf_counter()
        shelves = Shelves(workspace)
        figures = [
            Figure("artifacts", len(shelves.shelf.manifests), ""),
            Figure("reading the workspace", time.perf_counter() - start, "s"),
        ]
        start = time.perf_counter()
        shelves._fingerprint()
        figures.append(Figure("looking whether it has changed", 1000 * (time.perf_counter() - start), "ms"))
        app = create(shelves, Studio(), Guard("127.0.0.1", 8130))
        client = stack.enter_context(TestClient(app, base_url="http://127.0.0.1:8130", headers={"accept": "text/html"}))
        figures += _pages(client, shelves, options.repeats)
    show(figures, options.json)


def _pages(client: TestClient, shelves: Shelves, repeats: int) -> list[Figure]:
    sae = shelves.shelf.of("sae")[0]
    measured = [r for r in every(shelves.shelf) if r.method]
    n, names = sae.summary["n_latents"], [r.concept for r in measured]
    pictures = [r.unedited for r in measured if r.unedited]
    run = runs.records(shelves.workspace)[0].run_id
    kinds = {
        "concepts": lambda i: f"/?p={i}&sort={('name', 'mean', 'harms')[i % 3]}",
        "concept": lambda i: f"/concept?name={names[(7 * i) % len(names)]}",
        "  its best latents, fetched after it": lambda i: f"/part/best?name={names[(7 * i) % len(names)]}&domain=style",
        "latent": lambda i: f"/latent?sae={sae.id}&i={(997 * i) % n}",
        "  its nearest latents, fetched after it": lambda i: f"/part/near?sae={sae.id}&i={(997 * i) % n}",
        "SAEs": lambda i: "/saes",
        "SAE": lambda i: f"/sae?id={sae.id}&p={i}&order={('maximum', 'density')[i % 2]}",
        "runs": lambda i: "/runs",
        "run": lambda i: f"/run?id={run}",
        "search": lambda i: f"/search?q=concept+{i}",
        "try it": lambda i: "/try",
        "SQL": lambda i: "/sql",
        "picture": lambda i: "/image/{}/{}.png".format(*pictures[i]),
    }
    figures = []
    for name, address in kinds.items():
        times, work = [], []
        for i in range(repeats + 1):
            start, worked = time.perf_counter(), time.process_time()
            answer = client.get(address(i))
            times.append(1000 * (time.perf_counter() - start))
            work.append(1000 * (time.process_time() - worked))
            if answer.status_code != 200:
                raise SystemExit(f"{address(i)} was answered with {answer.status_code}: {answer.text[:200]}")
        typical = statistics.median(times[1:])
        figures += [
            Figure(name, typical, "ms", LIMIT, typical / LIMIT),
            Figure("  slowest, the first view included", max(times), "ms", LIMIT, max(times) / LIMIT),
            Figure("  processor, all threads", statistics.median(work[1:]), "ms"),
        ]
    return figures


def _made(workspace: Workspace, concepts: int, steps: int, latents: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"concept {i}" for i in range(concepts)]
    base = load("canvas", [])
    style = base.domains["style"].model_copy(update={"concepts": tuple(names), "hookpoints": (HOOKPOINT,)})
    config = base.model_copy(update={"domains": {**base.domains, "style": style}})
    runs.remember(workspace, config)
    sae = _sae(workspace, latents)
    scores = make(workspace, concepts, steps, latents, sae)
    place: dict[str, Any] = {"workspace": workspace.root, "hookpoint": HOOKPOINT, "sae_id": sae}
    totals.fn(TotalsJob(**place, domain="style", scores=tuple(sorted(scores))))
    packs.fn(PacksJob(**place, scores=tuple(sorted(scores))))
    _diagnosis(workspace, sae, latents, steps, rng)
    objects = [f"object {i}" for i in range(4)]
    prompts = [(f"{c} {o}", {"style": c, "object": o}) for c in names for o in objects]
    plain, judged = _images(workspace, "unedited", prompts, (), rng, pictures=True)
    unedited = [Judged(key, 0, asked, dict(asked)) for key, asked in prompts]
    made, known = dict[str, bool](), list[Any]()
    for index, name in enumerate(names):
        some = [p for p in prompts if p[1]["style"] == name]
        some += [
            prompts[i]
            for i in rng.choice(len(prompts), min(96, len(prompts)), replace=False)
            if prompts[i][1]["style"] != name
        ]
        made |= _removed(workspace, name, index, sae, latents, steps, some, plain, judged, unedited, rng, known)
    with runs.living(workspace, "pipeline", config) as run_id:
        counts = {"made": len(made), "cached": 0, "failed": 0}
        runs.finish(workspace, run_id, "completed", counts, artifacts=made)


def _commit(workspace: Workspace, stage: str, version: int, about: dict[str, Any], write: Any, **what: Any) -> str:
    made = artifact_id(stage, version, about)
    workspace.folder(made).mkdir(parents=True, exist_ok=True)
    write(workspace.folder(made))
    fields = {"config": about, "inputs": {}, "summary": {}, **what}
    workspace.commit(made, seconds=1.0, **fields)
    return made


def _sae(workspace: Workspace, latents: int) -> str:
    info = SAEInfo("topk", WIDTH, latents, 32, HOOKPOINT, "topk")
    about = {"capture_id": "c", "hookpoint": HOOKPOINT, "variant": "topk", "width": WIDTH, "n_latents": latents}
    figures = {"k": 32, "dictionary": "trained", "fvu": 0.2, "l0": 32.0, "dead": 0.1, "rows": 1, "seconds": 1.0}
    return _commit(workspace, "sae", 2, {"n": latents}, SAE(info).save, summary={**about, **figures})


def _diagnosis(workspace: Workspace, sae: str, latents: int, steps: int, rng: Any) -> None:
    timesteps = [20 * i for i in reversed(range(steps))]
    keys = [f"held{i:03d}" for i in range(256)]

    def write(folder: Path) -> None:
        density, every = rng.random(latents) ** 4, np.arange(latents)
        rows = {
            "latent": every, "density": density, "image_density": density, "mean": density, "maximum": 9 * density,
            "max_cosine": rng.random(latents), "nearest": rng.integers(0, latents, latents),
            "dead": density < 1e-6, "always_on": density > 0.9,
        }  # fmt: skip
        write_table(folder / "latents.parquet", _table(rows, "latent"))
        profile = {"latent": np.repeat(every, steps), "timestep": np.tile(timesteps, latents)}
        profile |= {name: rng.random(latents * steps) for name in ("density", "mean", "maximum")}
        write_table(folder / "profiles.parquet", _table(profile, "profile"))
        count = latents * EXAMPLES
        maps = rng.integers(0, 255, (len(MAPS), count, GRID_SIDE**2), dtype=np.uint8)
        example = {
            "latent": np.repeat(every, EXAMPLES), "rank": np.tile(np.arange(1, EXAMPLES + 1), latents),
            "prompt_id": rng.choice(keys, count), "image_index": np.zeros(count, int), "mean": rng.random(count),
            "timestep": np.full(count, timesteps[0]), "position": rng.integers(0, GRID_SIDE**2, count),
            "value": rng.random(count), **{n: [m.tobytes() for m in of] for n, of in zip(MAPS, maps, strict=True)},
        }  # fmt: skip
        write_examples(folder / "examples.parquet", _table(example, "example"))
        figure = {name: np.full(steps, 0.5) for name in ("fvu", "relative", "loss_clean", "loss_sae", "loss_zero")}
        step = {"timestep": timesteps, "half": ["conditional"] * steps, "rows": [100] * steps, "l0": [32.0] * steps}
        write_table(folder / "steps.parquet", _table({**step, **figure}, "step"))
        picture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        samples = [(f"{key}_0000", {"png": png_of(picture), "txt": key.encode()}) for key in keys]
        shards.write_shard(folder / "images.tar", samples, {})
        half = {"fvu": 0.2, "l0": 32.0}
        about = {"half": "conditional", "halves": {"conditional": half}, "dead": 1, "always_on": 0}
        loss = {"recovered": 0.9}
        write_json(
            folder / "diagnosis.json",
            {**about, "loss": loss, "timesteps": timesteps, "grid": [GRID_SIDE, GRID_SIDE]},
        )

    asked = [
        {"prompt_id": key, "text": key, "split": "test", "concepts": {"style": "concept 0"}, "seed": None,
         "guidance": None, "source": ""}
        for key in keys
    ]  # fmt: skip
    texts = _commit(
        workspace, "prompts", 1, {"held": len(keys)},
        lambda folder: write_table(folder / PROMPTS.file, table(asked, PROMPTS)),
    )  # fmt: skip
    about = {"sae_id": sae, "hookpoint": HOOKPOINT, "fvu": 0.2, "l0": 32.0, "dead": 1, "always_on": 0}
    summary = {**about, "recovered": 0.9, "images": 256}
    _commit(workspace, "diagnosis", 1, {"sae": sae}, write, inputs={"prompts": texts}, summary=summary)


def _table(columns: dict[str, Any], kind: str) -> Any:
    import pyarrow as pa

    schema = FILES[kind]
    arrays = [pa.array(list(columns[field.name]), field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _images(
    workspace: Workspace, name: str, prompts: Any, removals: Any, rng: Any, pictures: bool
) -> tuple[str, list[str]]:
    rows = [
        {
            "image_set": name, "key": f"{key}_0000", "shard": "00000.tar", "prompt_id": key, "image_index": 0,
            "split": "test", "asked": asked, "removals": list(removals),
        }
        for key, asked in prompts
    ]  # fmt: skip

    def write(folder: Path) -> None:
        write_table(folder / IMAGES.file, table(rows, IMAGES))
        if pictures:
            png = png_of(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            shards.write_shard(folder / "00000.tar", [(row["key"], {"png": png}) for row in rows], {})

    inputs = {"prompts": "p", "removals": list(removals)}
    made = _commit(workspace, "images", 3, {"name": name}, write, inputs=inputs, summary={"images": len(rows)})
    judged = []
    for domain in ("style", "object"):
        seen = [
            {
                "image_set_id": made, "key": row["key"], "prompt_id": row["prompt_id"], "image_index": 0,
                "domain": domain, "asked": row["asked"][domain], "judge": "j", "label": row["asked"][domain],
                "score": 1.0,
            }
            for row in rows
        ]  # fmt: skip

        def judge(folder: Path, seen: Any = seen) -> None:
            write_table(folder / JUDGEMENTS.file, table(seen, JUDGEMENTS))

        about = {"domain": domain, "judge": "j", "images": len(rows)}
        config = {"image_set_id": made, "domain": domain}
        judged.append(_commit(workspace, "judgements", 1, config, judge, summary=about))
    return made, judged


def _removed(
    workspace: Workspace, name: str, index: int, sae: str, latents: int, steps: int, some: Any, plain: str,
    judged: list[str], unedited: list[Judged], rng: Any, known: list[Any],
) -> dict[str, bool]:  # fmt: skip
    about = {"domain": "style", "concept": name, "method": "saeuron"}
    who = {"concept": name, "method": "saeuron"}
    chosen = rng.choice(latents, 32, replace=False).tolist()

    def removal(folder: Path) -> None:
        edits = [
            {**who, "hookpoint": HOOKPOINT, "sae_id": sae, "half": "both", "timestep": 20 * t, "latent": i,
             "role": "edits", "factor": -1.0, "floor": 0.0, "weight": None}
            for i in chosen for t in range(steps)
        ]  # fmt: skip
        write_table(folder / REMOVAL_LATENTS.file, table(edits, REMOVAL_LATENTS))
        grid = [
            {**who, "settings": {"n": str(n)}, "chosen": n == 8, "value": 0.9, "ua": 0.9, "ira": 0.9, "cra": 0.9}
            for n in (4, 8, 16)
        ]
        write_table(folder / GRID.file, table(grid, GRID))

    fields = {"settings": {"n": 8}, "content": "", "searched": True, "reference_set": "r", "reference": ["a", "b"]}
    fields |= {"reference_ids": [], "hookpoints": [HOOKPOINT], "latents": 32, "latents_read": 0}
    fields |= {"ua": 0.9, "ira": 0.9, "cra": 0.9}
    removal_id = _commit(workspace, "removal", 9, who, removal, summary={**about, **fields})
    images, seen = _images(workspace, f"without {name}", some, [removal_id], rng, pictures=False)
    edited = [
        Judged(key, 0, asked, {**asked, "style": "other"} if asked["style"] == name else dict(asked))
        for key, asked in some
    ]
    keys = {key for key, _ in some}
    before = [j for j in unedited if j.prompt_id in keys]
    if not known:
        # Intervals of 500 evaluations would take longer than all else: those of the first stand for all.
        known.append(evaluate("style", name, ["style", "object"], edited, before))
        known.append(damage("style", name, edited, before))
    metrics, harms = known
    common = {"removal_id": removal_id, **who}

    def write(folder: Path) -> None:
        who = {"judge": "j", "judge_id": "j"}
        rows = [{**vars(m), **common, **who, "domain": "style", "seeds": 1, "split": "test"} for m in metrics]
        write_table(folder / METRICS.file, table(rows, METRICS))
        write_table(folder / DAMAGE.file, table([{**common, **vars(d)} for d in harms], DAMAGE))
        confused = confusion(edited, before)
        write_table(folder / CONFUSION.file, table([{**common, **vars(c)} for c in confused], CONFUSION))

    figures = {m.metric: {k: getattr(m, k) for k in ("value", "unedited", "low", "high")} for m in metrics}
    config = {
        **about, "removal_id": removal_id, "edited": [images], "unedited": [plain], "seeds": 1,
        "domains": ["style", "object"], "judgements": {images: seen, plain: judged},
    }  # fmt: skip
    found: dict[str, Any] = {
        **about,
        "value": summary(metrics),
        "verdict": ("holds", "weak", "failed")[index % 3],
        "reason": "",
    }
    found |= {"metrics": figures, "harmed": [], "others": len(harms), "images": len(edited)}
    evaluation = _commit(workspace, "evaluation", 4, config, write, summary=found, inputs={"removal": removal_id})
    return {removal_id: False, images: False, evaluation: False}


if __name__ == "__main__":
    main()
