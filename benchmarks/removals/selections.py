"""Other ways to choose what SAeUron's edit acts on, beside the published one, on a run's own SAEs and statistics.

    saeuron run canvas_bench --set 'method=[saeuron]' && python -m benchmarks.removals.selections --workspace workspace

For each concept and form, n and gamma are chosen on validation images; test images are judged, the same prompts and
starting noise for all forms, and compared with `published`, paired by image. mu is the mean of a latent over rows.

published   the n best by s = share of the concept's mu less that of all others together; edited above m
together    s averaged over the steps, so that each step has the same n latents
nearest     share of the concept's mu less the largest share of any other concept
ratio       mu log(mu / mu of others), of latents that fire in half of the concept's images
relatives   edited only above the largest mu of any other concept
late        only the half of the steps that is nearer to the image
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.results import parser, write
from saeuron import judges, methods
from saeuron.config import RunConfig
from saeuron.evaluation import images as test_images
from saeuron.evaluation import judged, labels_of
from saeuron.figures.comparison import Pair, compare, share
from saeuron.figures.metrics import Judged
from saeuron.generation import Request, generate
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.pipelines.loading import load_pipeline
from saeuron.profiles import DomainTotals, Profile, profile
from saeuron.prompts import build
from saeuron.sae.autoencoder import SAE
from saeuron.scoring import DELTA, means
from saeuron.scoring import share as share_of
from saeuron.tuning import Trial, best, candidates, trial, validation_images
from storage import Workspace
from storage.statistics.sums import Sums, read_statistics
from tasks.registry import runs

FIRES = 0.5
"""Share of the concept's images in which a latent of `ratio` fires."""


class Statistics(NamedTuple):
    """The statistics of a domain at one hookpoint."""

    of: Mapping[str, Sums]
    """{concept: its sums}."""
    total: DomainTotals

    def mu(self, concept: str) -> Tensor:
        """Mean of each latent over the concept's rows, float64 [T, N]."""
        return mean_of(self.of[concept])

    def others(self, concept: str) -> list[Tensor]:
        """The same of each other concept."""
        return [self.mu(c) for c in self.of if c != concept]


def mean_of(sums: Sums) -> Tensor:
    """Mean of each latent over rows, float64 [T, N]."""
    return means(torch.tensor(sums.sum_fixed), torch.tensor(sums.n_rows.astype("int64")))


def together(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """The same latents at every step."""
    del statistics, concept
    return plain._replace(score=plain.score.mean(0, keepdim=True).expand_as(plain.score).clone())


def nearest(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """Contrast with the concept that a latent means most, not with all together."""
    rival = torch.stack([share_of(mu) for mu in statistics.others(concept)]).amax(0)
    return plain._replace(score=share_of(statistics.mu(concept)) - rival)


def ratio(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """Mean times log-ratio, of latents that fire in enough of the concept's images."""
    own, sums = statistics.mu(concept), statistics.of[concept]
    pooled = statistics.total.minus(sums)
    other = means(torch.tensor(pooled.sum_fixed), torch.tensor(pooled.n_rows.astype("int64")))
    value = own * torch.log((own + DELTA) / (other + DELTA))
    fires = torch.tensor(sums.image_fires.astype("int64")) / torch.tensor(sums.n_images.astype("int64"))[:, None]
    return plain._replace(score=torch.where(fires >= FIRES, value, -torch.inf))


def relatives(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """A floor that the mean of no other concept reaches."""
    return plain._replace(threshold=torch.stack(statistics.others(concept)).amax(0).float())


def late(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """No edit in the half of the steps that is nearer to noise: no latent is above an infinite floor."""
    del statistics, concept
    early = plain.timesteps > plain.timesteps.median()
    return plain._replace(threshold=torch.where(early[:, None], torch.inf, plain.threshold))


def published(plain: Profile, statistics: Statistics, concept: str) -> Profile:
    """As it is."""
    del statistics, concept
    return plain


FORMS: dict[str, Callable[[Profile, Statistics, str], Profile]] = {
    f.__name__: f for f in (published, together, nearest, ratio, relatives, late)
}


class Seen(NamedTuple):
    """What judges say of images, and which look unlike the model's own."""

    judged: list[Judged]
    odd: list[bool]


class Bench:
    """A finished run's model, judges and statistics."""

    def __init__(self, workspace: Path) -> None:
        self.open = Workspace.open(workspace, create=False)
        self.config: RunConfig = runs.remembered(self.open)
        self.pipe = load_pipeline(self.config.model.spec)
        self.pipe.set_progress_bar_config(disable=True)
        self.prompts = build(self.config.prompts, self.config.domains)
        self.judges = {domain: judges.of_domain(domain, about) for domain, about in self.config.domains.items()}

    def saes(self, domain: str) -> dict[str, tuple[str, SAE]]:
        """{hookpoint: (id, trained SAE)} that the run's removals by `saeuron` edit."""
        for made in self.open.artifacts("trials"):
            if made.summary["domain"] == domain and made.summary["method"] == "saeuron":
                return {h: (i, SAE.load(self.open.whole(i))) for h, i in made.config["saes"].items()}
        raise SystemExit(f"error: {self.open.root} has no removals of a {domain} by saeuron.")

    def statistics(self, domain: str, sae_id: str) -> Statistics:
        """Sums of every concept of the domain in the latents of one SAE."""
        found: dict[str, Sums] = {}
        for made in self.open.artifacts("score"):
            for scored in made.summary["saes"]:
                if made.summary["domain"] == domain and scored["sae_id"] == sae_id:
                    found[made.summary["concept"]] = read_statistics(self.open.whole(made.id) / scored["folder"])
        return Statistics(found, DomainTotals.of(found.values()))

    def see(self, removals: Sequence[Removal], wanted: Sequence[Request], seed: int) -> Seen:
        """Generate images, and judge them."""
        labels, found = labels_of(wanted, self.judges), Seen([], [])
        look: Any = next(iter(self.judges.values()))
        with removed(self.pipe, removals) as attached:
            for batch, pictures in generate(self.pipe, wanted, self.config.model, seed, extra=attached.call):
                found.judged.extend(judged(batch, pictures, self.judges, labels))
                found.odd.extend(not ordinary for ordinary in look.ordinary(pictures))
        return found


def main() -> None:
    """Measure, and print each line as it is done."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--concepts", nargs="+", default=["stripes", "neon", "king", "cat"])
    arguments.add_argument("--forms", nargs="+", choices=sorted(FORMS), default=list(FORMS))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    bench, rows = Bench(options.workspace), list[dict[str, Any]]()
    tested: dict[tuple[str, str], list[tuple[str, Seen]]] = {}
    for concept in options.concepts:
        domain = bench.config.domain_of(concept)
        if domain is None:
            raise SystemExit(f"error: {concept!r} is no concept of {options.workspace}.")
        for form, trial_of, seen in tried(bench, domain, concept, options.forms):
            tested.setdefault((domain, form), []).append((concept, seen))
            asked = [odd for j, odd in zip(*seen, strict=True) if j.asked.get(domain) == concept]
            row = {"concept": concept, "form": form, "settings": dict(trial_of.removal.settings)}
            row |= {"validation": trial_of.value, "odd": sum(asked) / len(asked)}
            rows.append(row | _shares(domain, list(bench.judges), [(concept, seen)]))
            print(rows[-1], flush=True)
    for (domain, form), seen_of in tested.items():
        names, first = list(bench.judges), tested[domain, options.forms[0]]
        pairs = [Pair(c, s.judged, p.judged) for (c, s), (_, p) in zip(seen_of, first, strict=True)]
        row = {"domain": domain, "form": form, **_shares(domain, names, seen_of)}
        if form != options.forms[0]:
            apart = compare(domain, names, pairs)
            row |= {"difference": apart.value, "low": apart.low, "high": apart.high, "differ": apart.n_differ}
        rows.append(row)
        print(row, flush=True)
    write(rows, options.json)


def tried(bench: Bench, domain: str, concept: str, forms: Sequence[str]) -> Iterator[tuple[str, Trial, Seen]]:
    """(form, its best candidate on validation images, its test images) of one concept."""
    config, method = bench.config, methods.get("saeuron")
    saes = bench.saes(domain)
    statistics = {h: bench.statistics(domain, i) for h, (i, _) in saes.items()}
    plain = {h: profile(s.of[concept], s.total) for h, s in statistics.items()}
    validation = validation_images(bench.prompts, config.tune, domain, concept, config.domains[domain].concepts)
    test = test_images(bench.prompts, config.evaluate, (domain, concept))
    unedited = bench.see([], validation, config.tune.seed)
    for form in forms:
        evidence = Evidence(
            concept,
            domain,
            tuple(saes),
            config.tune.half,
            saes={h: sae for h, (_, sae) in saes.items()},
            sae_ids={h: i for h, (i, _) in saes.items()},
            profiles={h: FORMS[form](p, statistics[h], concept) for h, p in plain.items()},
            model=config.model,
        )
        found = candidates(method, evidence, method.candidates(config.grid(domain, "saeuron")))
        looked = [bench.see([removal], validation, config.tune.seed) for removal in found]
        trials = [trial(r, list(bench.judges), s.judged, unedited.judged) for r, s in zip(found, looked, strict=True)]
        chosen = best(trials)
        yield form, chosen, bench.see([chosen.removal], test, config.evaluate.seed)


def _shares(domain: str, domains: Sequence[str], seen: Sequence[tuple[str, Seen]]) -> dict[str, float | None]:
    """UA, IRA and CRA, means over concepts, and their mean, as fractions."""
    pairs = [(domain, Pair(concept, each.judged, None)) for concept, each in seen]
    found = {metric: share(domains, pairs, metric).value for metric in ("UA", "IRA", "CRA")}
    return {**found, "mean": sum(value or 0.0 for value in found.values()) / len(found)}


if __name__ == "__main__":
    main()
