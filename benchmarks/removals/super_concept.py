"""The super-concept `round`: circle, ring and moon removed from canvas at once, beside a control.

    python -m benchmarks.removals.super_concept --removals WORKSPACE/removals

It stands in for several concepts of one run, such as parts of a body. Wanted: of images asked to show one of them,
those that do fall by 95 %, and images asked to show other objects keep what they show within 2 %. `--removals FOLDER`
takes the removals of a run by `--method` and merges them into one; without it they are UCE's, which learns from
training prompts alone. The control removes three other objects (cat, key, cup) in the same way: it must leave `round`
alone. Test prompts.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import parser, write
from flows.config import load
from saeuron import judges, methods
from saeuron.config import RunConfig
from saeuron.evaluation import look
from saeuron.figures.metrics import Judged, wilson
from saeuron.generation import Request
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt, build, cells, choose
from saeuron.tuning import learning_prompts

ROUND, OTHER = ("circle", "ring", "moon"), ("cat", "key", "cup")
DOMAIN = "object"


def learned(
    pipe: object, config: RunConfig, prompts: Sequence[Prompt], concepts: Sequence[str], erase: float
) -> Removal:
    """One removal of several objects by UCE."""
    method, found = methods.get("uce"), []
    for concept in concepts:
        reference = config.domains[DOMAIN].concepts
        asked, retained = learning_prompts(prompts, config.tune, DOMAIN, concept, reference)
        evidence = Evidence(concept, DOMAIN, pipe=pipe, model=config.model, asked=asked, retained=retained)
        found.append(method.removal(evidence, method.learn(evidence), method.candidates({"erase": (erase,)})[0]))
    return Removal.merge(found)


def test_images(config: RunConfig, prompts: Sequence[Prompt], count: int, each: int = 1) -> list[Request]:
    """`each` images of every cell of the three with a style, and of `count` cells of objects in neither triple."""
    test = [p for p in prompts if p.split == "test" and DOMAIN in p.concepts]
    one_each = [choose(members, 1, config.evaluate.seed)[0] for members in cells(test).values()]
    one_each = choose(one_each, len(one_each), config.evaluate.seed)
    mine = [p for p in one_each if p.concepts[DOMAIN] in ROUND]
    others = [p for p in one_each if p.concepts[DOMAIN] not in (*ROUND, *OTHER)]
    return [Request(p, i) for p in (*mine, *others[:count]) for i in range(each)]


def counts(seen: Sequence[Judged]) -> dict[str, tuple[int, int]]:
    """{what: (images, of how many)}: `round` where it was asked for and where it was not, others that are right."""
    mine = [s for s in seen if s.asked[DOMAIN] in ROUND]
    others = [s for s in seen if s.asked[DOMAIN] not in ROUND]
    styled = [s for s in seen if "style" in s.asked]
    return {
        "round, where asked for": (sum(s.seen[DOMAIN] in ROUND for s in mine), len(mine)),
        "round, where not asked for": (sum(s.seen[DOMAIN] in ROUND for s in others), len(others)),
        "other objects right": (sum(s.right(DOMAIN) for s in others), len(others)),
        "styles right": (sum(s.right("style") for s in styled), len(styled)),
    }


def main() -> None:
    """Measure, and print a line for each kind as it is done."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas")
    arguments.add_argument("--erase", type=float, default=0.1, help="UCE's setting")
    arguments.add_argument("--removals", type=Path, help="a run's removals in place of UCE's")
    arguments.add_argument("--method", default="gated_uce")
    arguments.add_argument("--others", type=int, default=60, help="prompts for other objects")
    arguments.add_argument("--images", type=int, default=1, help="images a prompt")
    options = arguments.parse_args()
    config = load(options.config)
    about = config.domains[DOMAIN]
    every = tuple(dict.fromkeys((*about.concepts, *ROUND, *OTHER)))
    config = config.model_copy(
        update={"domains": config.domains | {DOMAIN: about.model_copy(update={"concepts": every})}}
    )
    prompts, pipe = build(config.prompts, config.domains), load_pipeline(config.model.spec)
    images = test_images(config, prompts, options.others, options.images)
    looking = {name: judges.of_domain(name, domain) for name, domain in config.domains.items()}
    kinds: dict[str, list[Removal]] = {"unedited": []}
    for kind, concepts in (("removed", ROUND), ("control", OTHER)):
        if options.removals:
            files = [options.removals / f"{concept}.{options.method}.safetensors" for concept in concepts]
            kinds[kind] = [Removal.merge([Removal.load(file) for file in files])]
        else:
            kinds[kind] = [learned(pipe, config, prompts, concepts, options.erase)]
    rows = []
    for kind, removals in kinds.items():
        found = counts(look(pipe, removals, images, looking, config.model, config.evaluate.seed))
        rows += [{"kind": kind, "what": what, "images": k, "of": n} for what, (k, n) in found.items()]
        shown = [
            f"{what} {k} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"
            for what, (k, n) in found.items()
            for low, high in [wilson(k, n)]
        ]
        print(f"{kind}: {'; '.join(shown)}", flush=True)
    write(rows, options.json)


if __name__ == "__main__":
    main()
