"""Blind spots that were planted in canvas: which are found, beside what must find nothing.

    python -m benchmarks.pictures.blindspots --pairs 480 --plants 10 --keep FOLDER

Suppressed: one concept removed by `semantic_gate`, which is made from prompts alone; where its gate stays closed the
picture is that of the unedited model, to the bit, and is not drawn again. It is compared with real pictures, and with
the unedited model by the same prompts and noise. Exaggerated: one style five times as often as each other one among
generated pictures. Null: real pictures on either side; the unedited model beside itself with other noise. Copies: 5 %
of the generated pictures are the real ones with noise of 0.02 and a shift of a pixel. Unusual: the plants of
`benchmarks.pictures.realism`, and guidance 0 and 9. One SAE serves all of them; it is learned from the real pictures,
further ones and those of the unedited model. Test prompts; names are chosen and judged on further renders. `--keep`
keeps drawn pictures in a folder.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pictures.realism import plants
from benchmarks.results import parser
from flows.config import load
from saeuron import methods
from saeuron.blindspots.dictionary import DictionaryConfig, Strengths, components, learn, projected, strengths
from saeuron.blindspots.features import features
from saeuron.blindspots.naming import fires, is_name, named
from saeuron.blindspots.pairs import copied_below, energies, nearest, shifts
from saeuron.blindspots.prevalence import Prevalence, prevalence, strongest
from saeuron.blindspots.real import Picture, Rendered
from saeuron.blindspots.samples import FromRenderer
from saeuron.blindspots.unusual import shuffled, usual
from saeuron.canvas.realism import realism
from saeuron.canvas.vocabularies import CANVAS
from saeuron.config import ModelConfig, RunConfig
from saeuron.figures.metrics import wilson
from saeuron.generation import Request, generate
from saeuron.inspection.ranks import auc
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.semantic_gate import SemanticGate
from saeuron.methods.text.states import rows as states
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import build
from saeuron.sae.diagnosis.explanations import Explanation
from saeuron.tuning import learning_prompts
from tasks.inspection.blindspots import FLAGGED, BlindspotsConfig

SEED = 9
OTHERS = BlindspotsConfig().others
NEW = 8
"""New renders of each prompt, from which nothing is learned."""
COMPONENTS = 256
"""Of the control: directions of pixels, either side of which is a latent."""
ORDERS = 50
"""Of shuffled pairs, over which the control of copies is a mean."""
MORE = 5
"""How much oftener an exaggerated style is asked for than each other one."""
Pixels = NDArray[np.uint8]


class Bench:
    """The model, its pictures, and the latents."""

    def __init__(self, config: RunConfig, pairs: int, keep: Path | None, how: DictionaryConfig) -> None:
        self.config, self.keep = config, keep
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
        self.prompts = build(config.prompts, config.domains)
        self.pipe = load_pipeline(config.model.spec)
        self.source = FromRenderer(Rendered(CANVAS))
        self.requests = self.source.requests(self.prompts, pairs, SEED)
        self.sample = self.source.sample(self.requests, OTHERS, (32, 32), SEED)
        self.plain = self.draw("unedited", self.requests)
        self.seeing = features("canvas")
        real, generated = self.rows(pixels(self.sample.real)), self.rows(self.plain)
        further = self.rows(pixels(self.sample.further))
        self.sae = learn(torch.cat([real, generated, further]).flatten(0, 1), how)
        self.real, self.generated = strengths(self.sae, real), strengths(self.sae, generated)
        self.chosen, self.judged = (self.look(pixels(side)) for side in (self.sample.chosen, self.sample.judged))
        self.names = names_of(self, self.chosen, self.judged)

    def rows(self, pictures: Pixels) -> torch.Tensor:
        return self.seeing.rows(pictures)

    def look(self, pictures: Pixels) -> Strengths:
        return strengths(self.sae, self.rows(pictures))

    def draw(
        self, name: str, requests: Sequence[Request], removals: Sequence[Removal] = (), noise: int = SEED, **how: Any
    ) -> Pixels:
        """Pictures, kept under a name and their number."""
        place = self.keep / f"{name}_{len(requests)}.npy" if self.keep else None
        if place and place.exists():
            return np.asarray(np.load(place, allow_pickle=False))
        model = ModelConfig.model_validate({**self.config.model.model_dump(), **how})
        with removed(self.pipe, removals) as attached:
            found = [p for _, p in generate(self.pipe, requests, model, noise, extra=attached.call)]
        if place:
            np.save(place, np.concatenate(found), allow_pickle=False)
        return np.concatenate(found)

    def without(self, domain: str, concept: str) -> tuple[Pixels, int]:
        """The pictures of a model without a concept, and how many of them were drawn again."""
        method, reference = methods.get("semantic_gate"), self.config.domains[domain].concepts
        asked, retained = learning_prompts(self.prompts, self.config.tune, domain, concept, reference)
        evidence = Evidence(concept, domain, pipe=self.pipe, model=self.config.model, asked=asked, retained=retained)
        removal = method.removal(evidence, method.learn(evidence), method.candidates({"strength": (1.0,)})[0])
        [gate] = removal.parts
        assert isinstance(gate, SemanticGate)
        told = states(self.pipe, [r.prompt.text for r in self.requests], gate.hookpoint)
        opened = [i for i in range(len(told)) if bool((gate.cosines(told[i : i + 1]) >= gate.tau).any())]
        pictures = self.plain.copy()
        pictures[opened] = self.draw(f"without_{concept}", [self.requests[i] for i in opened], [removal])
        return pictures, len(opened)


def change(chosen: Strengths, before: Strengths, after: Strengths, *seed: object) -> Prevalence:
    """What is drawn less or more often after a change, prompt by prompt."""
    return prevalence(before.mean, after.mean, SEED, *seed, counted=(fires(chosen, before), fires(chosen, after)))


def names_of(bench: Bench, chosen: Strengths, judged: Strengths) -> list[Explanation]:
    """The rule of each latent, from the further renders."""
    labels = ([p.labels for p in side] for side in (bench.sample.chosen, bench.sample.judged))
    return named(chosen, next(labels), judged, next(labels))


def pixels(pictures: Sequence[Picture]) -> Pixels:
    """Pictures of one size as an array."""
    return np.stack([p.pixels for p in pictures])


def flagged(found: Prevalence, names: Sequence[Explanation], verdict: Any) -> list[set[str]]:
    """The values that the rules of named latents of a verdict speak of, the surest latent first."""
    order = [i for i in strongest(found, verdict) if is_name(names[i])]
    return [{concept for _, concept in rule.values} for i in order if (rule := names[i].rule) is not None]


def chance(names: Sequence[Explanation], concept: str) -> float:
    """The share of named latents whose rule speaks of a concept: what a latent drawn at random hits."""
    rules = [name.rule for name in names if is_name(name) and name.rule is not None]
    return sum(concept in [c for _, c in rule.values] for rule in rules) / max(len(rules), 1)


def told(successes: int, n: int) -> str:
    """A share with its 95 % interval."""
    low, high = wilson(successes, n) if n else (0.0, 1.0)
    return f"{successes} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"


def suppressed(bench: Bench, each: int, only: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Concepts removed one at a time, beside real pictures, the unedited model, and by components of pixels."""
    flat = [_flat(pixels(side)) for side in (bench.sample.real, bench.sample.chosen, bench.sample.judged)]
    mean, directions = components(flat[0], COMPONENTS)
    real, chosen, judged, plain = (projected(mean, directions, side) for side in [*flat, _flat(bench.plain)])
    pixel_names = names_of(bench, chosen, judged)
    for domain in bench.config.domains:
        every = bench.config.domains[domain].concepts
        concepts = [c for c in every if c in only] or [
            every[int(i)] for i in np.linspace(0, len(every) - 1, min(each, len(every)))
        ]
        hits, right, flags, by_chance = dict[str, int](), dict[str, int](), dict[str, int](), 0.0
        for concept in concepts:
            pictures, drawn = bench.without(domain, concept)
            made, by_pixels = bench.look(pictures), projected(mean, directions, _flat(pictures))
            found = {
                "real pictures": (prevalence(bench.real.mean, made.mean, SEED, concept), bench.names),
                "the unedited model": (change(bench.chosen, bench.generated, made, concept), bench.names),
                "real pictures, by pixels": (prevalence(real.mean, by_pixels.mean, SEED, concept), pixel_names),
                "the unedited model, by pixels": (change(chosen, plain, by_pixels, concept), pixel_names),
            }
            row: dict[str, Any] = {"plant": concept, "domain": domain, "drawn": drawn}
            for side, (seen, names) in found.items():
                values = flagged(seen, names, "suppressed")
                row[side] = [sorted(v) for v in values]
                hits[side] = hits.get(side, 0) + (bool(values) and concept in values[0])
                right[side] = right.get(side, 0) + sum(concept in v for v in values)
                flags[side] = flags.get(side, 0) + len(values)
            by_chance += chance(bench.names, concept) / len(concepts)
            rows.append(row)
            tops = "; ".join(f"{side}: {row[side][0] if row[side] else '-'} of {len(row[side])}" for side in found)
            say(f"  without {concept}, {drawn} drawn: {tops}")
        for side in hits:
            say(f"suppressed {domain} beside {side}: the surest names the plant {told(hits[side], len(concepts))}; "
                f"{told(right[side], flags[side])} of flagged names are the plant's")  # fmt: skip
        say(f"  a named latent at random: {100 * by_chance:.1f} %")


def _flat(pictures: Pixels) -> torch.Tensor:
    return torch.from_numpy(pictures.reshape(len(pictures), -1)).float() / 127.5 - 1


def exaggerated(bench: Bench, rows: list[dict[str, Any]]) -> None:
    """One style `MORE` times as often among generated pictures, no pairs."""
    shown = [r.prompt.concepts.get("style") for r in bench.requests]
    found_in = 0
    styles = bench.config.domains["style"].concepts
    for style in styles:
        mine = [i for i, s in enumerate(shown) if s == style]
        rest = [
            i
            for other in {*shown} - {style}
            for i in [j for j, s in enumerate(shown) if s == other][: len(mine) // MORE]
        ]
        found = prevalence(bench.real.mean, bench.generated.mean[mine + rest], SEED, style, paired=False)
        values = flagged(found, bench.names, "exaggerated")
        found_in += bool(values) and style in values[0]
        rows.append({"exaggerated": style, "flagged": [sorted(v) for v in values]})
        say(f"  more {style}: {len(mine)} of {len(mine + rest)}; top {sorted(values[0]) if values else '-'}")
    say(f"exaggerated style: the surest names the plant {told(found_in, len(styles))}")


def null(bench: Bench, runs: int, noises: int, rows: list[dict[str, Any]]) -> None:
    """New renders of the same prompts on either side; the unedited model with other noise on either side.

    In each run of the second, either side of a prompt takes one of the noises, drawn at random.
    """
    prompts = [r.prompt for r in bench.requests]
    rng = np.random.default_rng(SEED)
    drawn = [bench.look(bench.draw(f"noise_{n}", bench.requests, noise=SEED + n)) for n in range(1, noises + 1)]
    every = [bench.generated, *drawn]

    def renders(run: int) -> Prevalence:
        sides = (bench.source.rendered.draw(prompts, SEED, "null", run, side) for side in (0, 1))
        return prevalence(*(bench.look(pixels(side)).mean for side in sides), SEED, "null", run)

    def noise(run: int) -> Prevalence:
        picks = np.argsort(rng.random((len(every), len(prompts))), 0)[:2]
        sides = [Strengths(*(np.stack(kind)[pick, np.arange(len(prompts))] for kind in zip(*every, strict=True)))
                 for pick in picks]  # fmt: skip
        return change(bench.chosen, sides[0], sides[1], "null", run)

    for name, compare in {"real against real": renders, "unedited against unedited": noise}.items():
        if compare is noise and not noises:
            continue
        counts = [sum(v in FLAGGED for v in compare(run).verdict) for run in range(runs)]
        rows.append({"null": name, "runs": runs, "flagged": sum(map(bool, counts))})
        say(f"{name}: something is flagged in {told(sum(map(bool, counts)), runs)} runs, {sum(counts)} latents in all")
    if noises:
        odd = usual(bench.chosen, [p.labels for p in bench.sample.chosen], bench.judged)
        counts = [int(odd.unusual(side).sum()) for side in drawn]
        say(f"unusual, of generated pictures that nothing was learned from: {told(sum(counts), noises * len(prompts))}")


def copies(bench: Bench, rows: list[dict[str, Any]]) -> None:
    """5 % of the generated pictures are copies."""
    rng = np.random.default_rng(SEED)
    planted = np.zeros(len(bench.plain), dtype=bool)
    planted[rng.permutation(len(planted))[: max(1, len(planted) // 20)]] = True
    real, made = pixels(bench.sample.real), bench.plain.copy()
    moved = np.roll(real[planted].astype(np.float64), 1, axis=2)
    made[planted] = (moved + rng.normal(scale=0.02 * 127.5, size=moved.shape)).round().clip(0, 255).astype(np.uint8)
    xi, fresh = ([bench.look(p).mean for p in shifts(of)] for of in (made, pixels(bench.sample.control[1])))
    found = auc(-energies(xi, bench.real.mean), planted) or 0.0
    # Of one order the 24 copies of 480 say little: 0.38 to 0.62 by chance.
    orders = (rng.permutation(len(made)) for _ in range(ORDERS))
    by_chance = float(np.mean([auc(-energies(xi, bench.real.mean[order]), planted) or 0.0 for order in orders]))
    energy = nearest(xi, bench.real.mean).energy
    called = energy < copied_below(bench.real.mean, xi, fresh)
    fence = energy < copied_below(bench.real.mean, xi)
    still = auc(-energies(xi[:1], bench.real.mean), planted) or 0.0
    rows.append({"copies": found, "shuffled": by_chance, "without shifts": still})
    say(
        f"copies: AUC {found:.3f} of {int(planted.sum())} among {len(planted)}, shuffled pairs {by_chance:.3f}, "
        f"without shifts {still:.3f}"
    )
    for which, calls in (("with", called), ("without", fence)):
        mine, others = (told(int(calls[side].sum()), int(side.sum())) for side in (planted, ~planted))
        say(f"  called copies {which} other real pictures of the prompts: {mine}; of the others {others}")


def unusual(bench: Bench, guidance: int, rows: list[dict[str, Any]]) -> None:
    """Planted pictures that no removal made, beside the Mahalanobis distance, softmax and two controls."""
    labels = [p.labels for p in bench.sample.chosen]
    found = usual(bench.chosen, labels, bench.judged)
    scores: dict[str, Callable[[Pixels, Strengths], Any]] = {
        "latents": lambda p, s: found.score(s),
        "without error": lambda p, s: usual(bench.chosen, labels, bench.judged, 0.0).score(s),
        "Mahalanobis": lambda p, s: realism(CANVAS).distance(_floats(p)).numpy(),
        "softmax": lambda p, s: -sum(h.softmax(1).max(1).values for h in realism(CANVAS).model(_floats(p))).numpy(),
        "shuffled": lambda p, s: shuffled(found, s, SEED),
    }
    new = pixels(bench.source.rendered.draw([r.prompt for r in bench.requests] * NEW, SEED, "new"))
    seen = bench.look(new)
    ordinary = {name: score(new, seen) for name, score in scores.items()}
    say(f"unusual: of new renders {told(int(found.unusual(seen).sum()), len(new))}, of generated pictures "
        f"{told(int(found.unusual(bench.generated).sum()), len(bench.plain))} flagged; AUROC by score")  # fmt: skip
    say(f"  {'':<24}" + "".join(f"{name:>15}" for name in scores))
    sets = {name: ((p.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
            for name, p in plants(torch.Generator().manual_seed(SEED)).items()}  # fmt: skip
    for value in (0.0, 9.0) if guidance else ():
        sets[f"guidance {value:g}"] = bench.draw(f"guidance_{value:g}", bench.requests[:guidance], guidance=value)
    for kind, pictures in sets.items():
        there = bench.look(pictures[:300])
        line = []
        for name, score in scores.items():
            of = score(pictures[:300], there)
            line.append(auc(np.concatenate([ordinary[name], of]), np.arange(len(new) + len(of)) >= len(new)) or 0.0)
        rows.append({"unusual": kind, **dict(zip(scores, line, strict=True))})
        say(f"  {kind:<24}" + "".join(f"{a:>15.3f}" for a in line))


def _floats(pictures: Pixels) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> None:
    """Measure, and print each part as it is done."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--pairs", type=int, default=480)
    arguments.add_argument("--plants", type=int, default=10, help="removed concepts of each domain")
    arguments.add_argument("--concepts", nargs="*", default=[], help="which ones, of both domains")
    arguments.add_argument("--runs", type=int, default=60, help="of the null")
    arguments.add_argument("--noises", type=int, default=2, help="further noises of the unedited model; 0: none")
    arguments.add_argument("--guidance", type=int, default=48, help="pictures at each guidance; 0: none")
    arguments.add_argument("--steps", type=int, default=DictionaryConfig().steps, help="of the SAE's training")
    arguments.add_argument("--keep", type=Path, help="folder of drawn pictures")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    began, rows = time.process_time(), list[dict[str, Any]]()
    bench = Bench(load("canvas"), options.pairs, options.keep, DictionaryConfig(steps=options.steps))
    plain = prevalence(bench.real.mean, bench.generated.mean, SEED, "plain")
    values = {verdict: flagged(plain, bench.names, verdict) for verdict in ("suppressed", "exaggerated")}
    single = {c for n in bench.names if is_name(n) and n.rule and n.rule.form == "one" for _, c in n.rule.values}
    good = sum(map(is_name, bench.names))
    say(f"{options.pairs} pairs, {len(bench.names)} latents, {good} with a name, {len(single)} "
        f"single values; FVU {bench.real.error.mean():.3f}")  # fmt: skip
    say(f"unedited: {plain.verdict.count('suppressed')} latents suppressed, {plain.verdict.count('exaggerated')} "
        f"exaggerated; named: {values}")  # fmt: skip
    exaggerated(bench, rows)
    copies(bench, rows)
    unusual(bench, 0, rows)
    suppressed(bench, options.plants, options.concepts, rows)
    null(bench, options.runs, options.noises, rows)
    if options.guidance:
        unusual(bench, options.guidance, rows)
    say(f"{time.process_time() - began:.0f} s of processor time")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
