"""Do latents whose explanation is trusted steer better? Success against confidence, with controls.

    saeuron sae explain HOOKPOINT -w W
    python -m benchmarks.inspection.steering HOOKPOINT --workspace W --latents 20

`saeuron latent steer` takes the most confident latents. Here they are taken evenly from the most to the least confident
one, of those whose rule speaks of one domain. A latent succeeds if at least half of the test images follow, and at most
a tenth change in another domain or are out of the ordinary, at the setting that validation images chose; up, down, or
either. AUC: the chance that one that succeeds is the more confident of two (wanted: 0.7). Where too few succeed to say,
the rank correlation of confidence with what follows less what is paid. Controls: a latent drawn at random with the same
length, a difference of means.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import Figure, parser, show
from flows.inspection.steer import KINDS, steer_jobs
from flows.run import Run
from saeuron.errors import ConfigError
from saeuron.figures.metrics import wilson
from saeuron.inspection.ranks import auc, resampled, spearman
from saeuron.inspection.steer import ALPHAS
from storage import Workspace
from storage.tables import STEERING, read_table
from tasks.inspection.steer import steer
from tasks.registry import runs
from tasks.registry.saes import find


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("sae", help="an SAE that was explained")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--latents", type=int, default=20)
    arguments.add_argument("--images", type=int, default=24)
    arguments.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    workspace = Workspace.open(options.workspace, create=False)
    run, sae = Run.of(workspace, runs.remembered(workspace), "cpu"), find(workspace, options.sae)
    try:
        jobs = steer_jobs(run, sae, None, sae.summary["n_latents"], options.images)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    chosen = spread(jobs, options.latents)
    rows: list[dict[str, Any]] = []
    for job in chosen:
        mine = job.model_copy(update={"config": job.config.model_copy(update={"alphas": tuple(options.alphas)})})
        made = steer.fn(mine)
        found = [r for r in read_table(workspace.whole(made.id) / STEERING.file).to_pylist() if r["split"] == "test"]
        rows += found
        for r in found:
            if r["kind"] == "latent":
                shares = ", ".join(f"{name} {r[name]:.2f}" for name in ("on_target", "off_target", "odd"))
                print(f"{job.latent} ({job.confidence:.2f}) {r['rule']}, {r['alpha']:+g}: {shares}", flush=True)
    show([*figures(rows)], options.json)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in dict.fromkeys(places.tolist())]


def within(ends: tuple[float | None, float | None]) -> str:
    """An interval in words."""
    low, high = ends
    return "cannot be said" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def figures(rows: Sequence[dict[str, Any]]) -> Iterator[Figure]:
    """Successes of each kind, and how confidence goes with them, up, down and either way."""
    for name, sign in (("up", 1), ("down", -1), ("either way", 0)):
        by: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in KINDS}
        for r in rows:
            if sign * r["alpha"] < 0:
                continue
            one = by[r["kind"]].setdefault(r["latent"], {"success": 0.0, "worth": -3.0, "confidence": r["confidence"]})
            worth = r["on_target"] - (r["off_target"] or 0) - (r["odd"] or 0)
            one["success"] = max(one["success"], float(bool(r["success"])))
            one["worth"] = max(one["worth"], worth)
        for kind, found in by.items():
            won, n = sum(each["success"] > 0 for each in found.values()), len(found)
            low, high = wilson(won, n)
            yield Figure(f"{name}: {kind} succeeds ({low:.2f} to {high:.2f}, n {n})", won / n, "1")
        mine = list(by["latent"].values())
        trust, won_at, worth_of = (np.array([each[key] for each in mine]) for key in ("confidence", "success", "worth"))
        said = within(resampled(trust, won_at, lambda a, b: auc(a, b > 0), "steering", name))
        yield Figure(f"{name}: AUC of confidence for success ({said})", auc(trust, won_at > 0), "1", 0.7)
        said = within(resampled(trust, worth_of, spearman, "worth", name))
        yield Figure(f"{name}: Spearman of confidence and on - off - odd ({said})", spearman(trust, worth_of), "1")


if __name__ == "__main__":
    main()
