"""Judge the stored images of an evaluation again, and compute its figures again: what `saeuron report --check` does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saeuron import extractors, judges
from saeuron.config import RunConfig, VerdictConfig
from saeuron.errors import ConfigError, SaeuronError
from saeuron.figures import verdict
from saeuron.figures.comparison import Pair, compare
from saeuron.figures.damage import Confusion, Damage, confusion, damage, mistaken
from saeuron.figures.metrics import Judged, Metric, evaluate, summary
from saeuron.figures.quality import ODD, Quality
from storage.manifests import Manifest
from tasks import images
from tasks.engine.judge import DomainJudge
from tasks.evaluate import EvaluateJob, odd, quality
from tasks.explore.shelf import Shelf

TOLERANCE = 1e-9
"""The most that two figures of the same judgements may differ."""
ROUNDED = 1e-3
"""The most that two figures of features may differ, as a share of the larger: another number of threads adds up in
another order, and pages show three digits."""
FEATURES = ("Frechet distance", "CLIP score")
"""Figures of features."""
CONFUSED = 16
"""Pairs of labels that a page shows: see `confused` in `removal_parts.html`."""
BESIDE = "beside "
"""Prefix of the name of an evaluation of which a page shows but a row, beside a removal of the same concept."""
UNCHECKED = (
    "attacks",
    "settings that were tried",
    "scores and pictures of latents",
    "shares and intervals of damage that is not certain",
)
"""What a report shows and no check computes again."""


def figures(
    metrics: Sequence[Metric],
    harms: Sequence[Damage],
    word: str,
    value: float | None,
    wrong: Sequence[Confusion] = (),
    kept: Sequence[Quality] = (),
) -> dict[str, Any]:
    """The figures of an evaluation by name, as a report holds them.

    Args:
        word: the verdict. value: the mean of the metrics. wrong: labels that were not asked for, as a page orders them.
    """
    found: dict[str, Any] = {"verdict": word, "mean": value}
    for m in metrics:
        found |= _measured(m.metric, m.value, m.low, m.high, m.unedited)
    for d in harms:
        name = f"loss of {d.domain} {d.harmed}"
        found[name] = d.loss
        if d.certain:
            found |= {
                f"{name} low": d.low,
                f"{name} high": d.high,
                f"{name} before": d.before,
                f"{name} after": d.after,
            }
    for c in wrong[:CONFUSED]:
        name = f"images of {c.domain} {c.asked} seen as {c.seen}"
        found |= {name: c.n, f"{name} unedited": c.n_unedited}
    for q in kept:
        if q.metric in (*FEATURES, ODD):
            name = f"{q.metric}, {q.image_set}"
            found |= {name: q.value, f"{name} unedited": q.unedited, f"{name} by chance": q.control}
    return found


def of_summary(about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation that its summary holds: verdict, mean and metrics."""
    found: dict[str, Any] = {"verdict": about.get("verdict", ""), "mean": about["value"]}
    for name, m in about["metrics"].items():
        found |= _measured(name, m["value"], m["low"], m["high"], m["unedited"])
    return found


def of_comparison(about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a comparison with a control, from its summary."""
    names = {"difference": "difference", "low": "low", "high": "high", "better": "beats", "images": "n"}
    return {name: about[field] for name, field in names.items()}


def _measured(
    name: str, value: float | None, low: float | None, high: float | None, unedited: float | None
) -> dict[str, float | None]:
    return {name: value, f"{name} low": low, f"{name} high": high, f"{name} unedited": unedited}


class Checker:
    """Judges images again. What it has looked at, it does not look at twice."""

    def __init__(self, shelf: Shelf, config: RunConfig | None, device: str = "cpu") -> None:
        self.shelf, self.config, self.device = shelf, config, device
        self._seen: dict[str, list[str | None]] = {}

    def again(self, evaluation: Manifest, brief: bool = False) -> dict[str, Any]:
        """The figures of an evaluation, from its images alone.

        Args:
            brief: only those of `of_summary`.

        Raises:
            ConfigError: a judge is not the one that judged.
            ArtifactMissing, ArtifactDamaged: an image is not there, or not as it was written.
        """
        config, about = evaluation.config, evaluation.summary
        edited, plain = (self._judged(config["judgements"], config[k]) for k in ("edited", "unedited"))
        wanted = {(j.prompt_id, j.index) for j in edited}
        unedited = [j for j in plain if (j.prompt_id, j.index) in wanted]
        metrics = evaluate(about["domain"], about["concept"], config["domains"], edited, unedited)
        harms = damage(about["domain"], about["concept"], edited, unedited)
        kept = self._odd(evaluation) if brief else self._quality(evaluation)
        word, _ = verdict.verdict(metrics, harms, VerdictConfig(**config["verdict"]), kept)
        if brief:
            return figures(metrics, (), word, summary(metrics))
        return figures(metrics, harms, word, summary(metrics), mistaken(confusion(edited, unedited)), kept)

    def compared(self, comparison: Manifest) -> dict[str, Any]:
        """The figures of a comparison with a control, from the images of both. Raises as `again`."""
        config = comparison.config
        pairs = [
            Pair(p["concept"], self._judged(p["method"], p["method"]), self._judged(p["control"], p["control"]))
            for p in config["pairs"]
        ]
        found = compare(config["domain"], config["domains"], pairs)
        fields = {"difference": found.value, "low": found.low, "high": found.high, "beats": found.beats}
        return of_comparison(fields | {"n": found.n_images})

    def unknown(self, evaluation: Manifest) -> list[str]:
        """Beginnings of the names of its figures that cannot be computed here: features are not here, or others."""
        return [] if self._features(evaluation) is not None else [FEATURES[0]]

    def unchecked(self, evaluations: Sequence[Manifest]) -> list[str]:
        """What a report of these evaluations shows, and no check computes again."""
        parts = any(q["metric"] not in (*FEATURES, ODD) for e in evaluations for q in e.summary.get("quality", ()))
        lacking = any(self.unknown(e) for e in evaluations)
        return [
            *UNCHECKED,
            *["parts that a judge detected"] * parts,
            *["distances in features that are not here, or not the same"] * lacking,
        ]

    def _judged(self, judgements: Mapping[str, Sequence[str]], image_sets: Iterable[str]) -> list[Judged]:
        """The images of some sets, judged again; `judgements`: {image set: those that are stored}."""
        found = []
        for image_set in image_sets:
            rows = images.index(self.shelf.workspace, image_set)
            seen: list[dict[str, str | None]] = [{} for _ in rows]
            for name in judgements[image_set]:
                domain = self.shelf.manifests[name].config["domain"]
                for of_it, label in zip(seen, self._labels(name, rows), strict=True):
                    of_it[domain] = label
            found += [
                Judged(row["prompt_id"], row["image_index"], dict(row["asked"]), of_it)
                for row, of_it in zip(rows, seen, strict=True)
            ]
        return found

    def _judges(self, evaluation: Manifest) -> dict[str, DomainJudge]:
        config = evaluation.config
        known = [self.shelf.manifests[name] for names in config["judgements"].values() for name in names]
        specs = {m.config["domain"]: m.summary["judge"] for m in known}
        return {domain: self._judge(domain, specs[domain], who) for domain, who in config["judges"].items()}

    def _features(self, evaluation: Manifest) -> str | None:
        """The specification of the features of its distances; empty: a judge's own. None: they are not here."""
        wanted = evaluation.config.get("features_id", "")
        spec = self.config.features if self.config and wanted else ""
        if not wanted:
            return ""
        try:
            return spec if spec and extractors.create(spec).extractor == wanted else None
        except (SaeuronError, OSError):
            return None

    def _quality(self, evaluation: Manifest) -> list[Quality]:
        """What its images say beside judgements: distances, out of the ordinary."""
        config, features = evaluation.config, self._features(evaluation)
        named = ("domain", "concept", "method", "domains", "removal_id", "edited", "unedited", "judgements", "seeds")
        job = EvaluateJob(
            workspace=self.shelf.workspace.root,
            device=self.device,
            **{name: config[name] for name in named},
            verdict=VerdictConfig(**config["verdict"]),
            judges=self._judges(evaluation),
            features=features or "",
            features_id=config.get("features_id", ""),
        )
        found = quality(job)
        return [q for q in found if q.metric != FEATURES[0]] if features is None else found

    def _odd(self, evaluation: Manifest) -> list[Quality]:
        """How many of the images that ask for the concept are out of the ordinary, where a judge tells."""
        config, about = evaluation.config, (evaluation.summary["domain"], evaluation.summary["concept"])
        by = self._judges(evaluation)
        for domain in sorted(by, key=lambda domain: domain != about[0]):
            who = by[domain].loaded(domain, self.device)
            if hasattr(who, "ordinary"):
                return odd(self.shelf.workspace, about, config["edited"], config["unedited"], who, asked=True)
        return []

    def _labels(self, judgements_id: str, rows: Sequence[images.Row]) -> list[str | None]:
        if judgements_id not in self._seen:
            manifest = self.shelf.manifests[judgements_id]
            domain, image_set_id = manifest.config["domain"], manifest.config["image_set_id"]
            judge = self._judge(domain, manifest.summary["judge"], manifest.config["judge"])
            found: list[str | None] = []
            for _, pictures in images.batches(self.shelf.workspace, image_set_id, rows):
                found += [each.label for each in judge.look(domain, pictures, self.device)]
            self._seen[judgements_id] = found
        return self._seen[judgements_id]

    def _judge(self, domain: str, spec: str, identity: Mapping[str, Any]) -> DomainJudge:
        known = self.config.domains.get(domain) if self.config else None
        templates = known.judge_templates if known else ()
        renamed = tuple(sorted(known.judge_labels.items())) if known else ()
        found = judges.create(spec, domain, templates, labels=dict(renamed)).identity
        if found != identity["id"]:
            raise ConfigError(
                f"the judge {spec!r} of {domain} is {found} now, and {identity['id']} judged these images: "
                "bring that one back, or evaluate again."
            )
        return DomainJudge(spec=spec, templates=templates, renamed=renamed, id=found, labels=tuple(identity["labels"]))


def differences(shown: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each figure of an evaluation that is shown, and is another when computed again."""
    lines = []
    for name in dict.fromkeys([*shown, *found]):
        a, b = shown.get(name), found.get(name)
        if not _same(name, a, b):
            lines.append(f"{name}: the report says {_told(name, a)}, its images {_told(name, b)}")
    return lines


def _same(name: str, a: Any, b: Any) -> bool:
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return bool(a == b)
    most = ROUNDED * max(abs(a), abs(b)) if name.startswith(FEATURES) else 0.0
    return abs(a - b) <= max(TOLERANCE, most)


def _told(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if name.startswith(FEATURES) else f"{100 * value:.2f} %"
