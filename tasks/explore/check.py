"""Judge the stored images of an evaluation again, and compute its figures again: what `saeuron report --check` does."""

from collections.abc import Mapping, Sequence
from typing import Any

from saeuron import judges
from saeuron.config import RunConfig, VerdictConfig
from saeuron.errors import ConfigError
from saeuron.figures import verdict
from saeuron.figures.damage import Damage, damage
from saeuron.figures.metrics import Judged, Metric, evaluate
from saeuron.figures.quality import Quality
from storage.manifests import Manifest
from tasks import images
from tasks.engine.judge import DomainJudge
from tasks.evaluate import odd
from tasks.explore.shelf import Shelf

TOLERANCE = 1e-9
"""The most that two figures of the same judgements may differ."""


def figures(metrics: Sequence[Metric], harms: Sequence[Damage], word: str) -> dict[str, Any]:
    """The figures of an evaluation by name, as a report holds them."""
    found: dict[str, Any] = {"verdict": word}
    for m in metrics:
        found |= {m.metric: m.value, f"{m.metric} low": m.low, f"{m.metric} high": m.high}
        found[f"{m.metric} unedited"] = m.unedited
    return found | {f"loss of {d.domain} {d.harmed}": d.loss for d in harms}


class Checker:
    """Judges images again. What it has looked at, it does not look at twice."""

    def __init__(self, shelf: Shelf, config: RunConfig | None, device: str = "cpu") -> None:
        self.shelf, self.config, self.device = shelf, config, device
        self._seen: dict[str, list[str | None]] = {}

    def again(self, evaluation: Manifest) -> dict[str, Any]:
        """The figures of an evaluation, from its images alone.

        Raises:
            ConfigError: a judge is not the one that judged.
            ArtifactMissing, ArtifactDamaged: an image is not there, or not as it was written.
        """
        config, about = evaluation.config, evaluation.summary
        edited, plain = ([j for i in config[k] for j in self._judged(config, i)] for k in ("edited", "unedited"))
        wanted = {(j.prompt_id, j.index) for j in edited}
        unedited = [j for j in plain if (j.prompt_id, j.index) in wanted]
        metrics = evaluate(about["domain"], about["concept"], config["domains"], edited, unedited)
        harms = damage(about["domain"], about["concept"], edited, unedited)
        word, _ = verdict.verdict(metrics, harms, VerdictConfig(**config["verdict"]), self._odd(evaluation))
        return figures(metrics, harms, word)

    def _judged(self, config: Mapping[str, Any], image_set_id: str) -> list[Judged]:
        rows = images.index(self.shelf.workspace, image_set_id)
        seen: list[dict[str, str | None]] = [{} for _ in rows]
        for name in config["judgements"][image_set_id]:
            domain = self.shelf.manifests[name].config["domain"]
            for of_it, label in zip(seen, self._labels(name, rows), strict=True):
                of_it[domain] = label
        return [
            Judged(row["prompt_id"], row["image_index"], dict(row["asked"]), of_it)
            for row, of_it in zip(rows, seen, strict=True)
        ]

    def _odd(self, evaluation: Manifest) -> list[Quality]:
        """How many of the images that ask for the concept are out of the ordinary, where a judge tells."""
        config, about = evaluation.config, (evaluation.summary["domain"], evaluation.summary["concept"])
        known = [self.shelf.manifests[name] for names in config["judgements"].values() for name in names]
        specs = {m.config["domain"]: m.summary["judge"] for m in known}
        for domain in sorted(config["judges"], key=lambda domain: domain != about[0]):
            who = self._judge(domain, specs[domain], config["judges"][domain]).loaded(domain, self.device)
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
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        if abs(a - b) > TOLERANCE if numbers else a != b:  # type: ignore[operator]
            lines.append(f"{name}: the report says {_told(a)}, its images {_told(b)}")
    return lines


def _told(value: Any) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, int | float) else str(value)
