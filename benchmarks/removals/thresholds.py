"""Thresholds in place of per-row TopK: how far firings, removals and costs agree, on a workspace's own SAEs.

    saeuron run && python -m benchmarks.removals.thresholds --workspace workspace --concepts neon king

Thresholds are taken from images of training prompts, as `thresholds.images` does, and tried on validation prompts. Each
removal is then used twice on test prompts: as it was tuned, with TopK, and with the thresholds, everything else being
the same (latents, factors, floors, prompts, starting noise). Beside both is the unedited model. Time is of the
processor, of one thread, for the same images each.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.removals.steps import line, shown, test_images
from benchmarks.results import parser, write
from saeuron import judges
from saeuron.evaluation import look
from saeuron.figures.metrics import Judged, evaluate
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import build
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import ThresholdsConfig
from saeuron.sae.thresholds import agreement, with_thresholds
from storage import Workspace
from tasks.registry import runs
from tasks.sae.thresholds import images, rows_of


def with_rows_alone(removal: Removal, saes: dict[str, SAE]) -> Removal:
    """The removal with the thresholds of `saes`, {hookpoint: SAE}: the same latents, computed alone."""

    def changed(edit: LatentEdit) -> LatentEdit:
        weights = {
            name: getattr(saes[edit.hookpoint], name).detach()[edit.latents].clone() for name in ("W_enc", "b_enc")
        }
        threshold = saes[edit.hookpoint].threshold[edit.latents].clone()
        return replace(edit, **weights, threshold=threshold, activation="threshold")

    return replace(removal, parts=tuple(changed(p) if isinstance(p, LatentEdit) else p for p in removal.parts))


def differing(a: list[Judged], b: list[Judged]) -> int:
    """Images of which the judges say something else."""
    return sum(x.seen != y.seen for x, y in zip(a, b, strict=True))


def main() -> None:
    """Measure, and print each line as it is done."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--concepts", nargs="+", default=["neon", "king"])
    arguments.add_argument("--images", type=int, default=200, help="images of training prompts")
    arguments.add_argument("--target", type=int, default=24, help="test images that ask for the concept")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    opened = Workspace.open(options.workspace, create=False)
    config, found = runs.remembered(opened), []
    pipe = load_pipeline(config.model.spec)
    removals = {
        concept: Removal.load(opened.removals / f"{concept}.saeuron.safetensors") for concept in options.concepts
    }
    asked = ThresholdsConfig(images=options.images)
    own, other = images(build(config.prompts, config.domains), asked)
    thresholded: dict[str, SAE] = {}
    edits = [p for r in removals.values() for p in r.parts if isinstance(p, LatentEdit)]
    for hookpoint, sae_id in {e.hookpoint: e.sae_id for e in edits}.items():
        sae = SAE.load(opened.folder(sae_id))
        rows, held_out = (rows_of(pipe, each, hookpoint, config.model, config.capture, asked) for each in (own, other))
        thresholded[hookpoint] = with_thresholds(sae, rows)
        told = agreement(sae, thresholded[hookpoint], held_out)
        found.append({"hookpoint": hookpoint, "rows": len(rows), "held_out": len(held_out), **told._asdict()})
        print(f"{hookpoint}: {told}", flush=True)
    for concept, removal in removals.items():
        looking = {domain: judges.of_domain(domain, about) for domain, about in config.domains.items()}
        wanted = test_images(config, removal.domain, concept, options.target)
        seen: dict[str, list[Judged]] = {}
        seconds: dict[str, float] = {}
        ways = {"unedited": [], "topk": [removal], "thresholds": [with_rows_alone(removal, thresholded)]}
        look(pipe, [], wanted[:2], looking, config.model, config.evaluate.seed)  # loads the judges
        for name, used in ways.items():
            start = time.process_time()
            seen[name] = look(pipe, used, wanted, looking, config.model, config.evaluate.seed)
            seconds[name] = time.process_time() - start
        for name in ("topk", "thresholds"):
            figures = shown(evaluate(removal.domain, concept, [*config.domains], seen[name], seen["unedited"]))
            ratio = seconds[name] / seconds["unedited"]
            found.append({"removal": concept, "way": name, "time": ratio, **figures})
            print(f"{concept} with {name}: {line(figures)}; {ratio:.3f} of the unedited time", flush=True)
        apart = differing(seen["topk"], seen["thresholds"])
        found.append({"removal": concept, "differing": apart, "images": len(wanted)})
        print(f"{concept}: judges differ on {apart} of {len(wanted)} images", flush=True)
    write(found, options.json)


if __name__ == "__main__":
    main()
