"""Removals at other numbers of steps than they were tuned at: UA, IRA and CRA, beside the unedited model.

    saeuron run
    python -m benchmarks.removals.steps --removals workspace/removals --concepts neon king --steps 12 6 24 50

The same images (prompts and starting noise) at every number of steps, those of the configuration. `--target` images ask
for the concept, as many others for other concepts of its domain, one after another. The first number of steps is what
the others are compared with: the promise is UA within 3 points of it.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import parser, write
from flows.config import load
from saeuron import judges
from saeuron.config import RunConfig
from saeuron.evaluation import look
from saeuron.figures.metrics import Metric, evaluate
from saeuron.generation import Request
from saeuron.methods.removal import Removal
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import build, cells, choose

SHOWN = ("UA", "IRA", "CRA")


def test_images(config: RunConfig, domain: str, concept: str, count: int) -> list[Request]:
    """`count` test images of the concept, and `count` of others of its domain that come in turn; one prompt a cell."""
    found = [p for p in build(config.prompts, config.domains) if p.split == "test" and domain in p.concepts]
    one_each = [choose(members, 1, config.evaluate.seed)[0] for members in cells(found).values()]
    one_each = choose(one_each, len(one_each), config.evaluate.seed)
    mine = [p for p in one_each if p.concepts[domain] == concept]
    others: dict[str, list[Request]] = {}
    for prompt in one_each:
        if prompt.concepts[domain] != concept:
            others.setdefault(prompt.concepts[domain], []).append(Request(prompt, 0))
    most = max(map(len, others.values()))
    dealt = [members[i] for i in range(most) for members in others.values() if i < len(members)]
    return [Request(p, 0) for p in mine[:count]] + dealt[:count]


def shown(metrics: Sequence[Metric]) -> dict[str, dict[str, float | int | None]]:
    """UA, IRA and CRA in percent, with intervals, the unedited model's, and the number of images."""

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 1)

    return {
        m.metric: {
            "value": percent(m.value),
            "low": percent(m.low),
            "high": percent(m.high),
            "unedited": percent(m.unedited),
            "n": m.n_images,
        }
        for m in metrics
        if m.metric in SHOWN
    }


def line(found: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """What `shown` gives, in a line."""
    return ", ".join(
        f"{name} {f['value']} ({f['low']} to {f['high']}; unedited {f['unedited']}; n {f['n']})"
        for name, f in found.items()
    )


def of_a_run(description: str) -> ArgumentParser:
    """A benchmark's arguments: a configuration, the folder of a run's removals, and concepts."""
    arguments = parser(description)
    arguments.add_argument("--config", default="canvas")
    arguments.add_argument(
        "--removals", type=Path, default=Path("workspace/removals"), help="folder of a run's removals"
    )
    arguments.add_argument("--concepts", nargs="+", default=["neon", "king"])
    return arguments


def main() -> None:
    """Measure, and print a line for each removal and number of steps as it is done."""
    arguments = of_a_run(__doc__ or "")
    arguments.add_argument("--method", default="saeuron")
    arguments.add_argument("--steps", nargs="+", type=int, default=[12, 6, 24, 50])
    arguments.add_argument("--target", type=int, default=24)
    options = arguments.parse_args()
    config, rows = load(options.config), []
    pipe = load_pipeline(config.model.spec)
    for concept in options.concepts:
        removal = Removal.load(options.removals / f"{concept}.{options.method}.safetensors")
        looking = {domain: judges.of_domain(domain, about) for domain, about in config.domains.items()}
        images = test_images(config, removal.domain, concept, options.target)
        first: float | None = None
        for steps in options.steps:
            model = config.model.model_copy(update={"steps": steps})
            edited, unedited = (
                look(pipe, removals, images, looking, model, config.evaluate.seed) for removals in ([removal], [])
            )
            found = shown(evaluate(removal.domain, concept, [*config.domains], edited, unedited))
            rows.append({"removal": concept, "steps": steps, **found})
            first = found["UA"]["value"] if first is None else first
            away = abs((found["UA"]["value"] or 0) - (first or 0))
            print(
                f"{concept} at {steps}: {line(found)}; UA {away:.1f} points from {options.steps[0]} steps", flush=True
            )
    write(rows, options.json)


if __name__ == "__main__":
    main()
