"""The page of an SAE, and the sheet of one latent, from its measurements and scores."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from saeuron.pages.contents import ConceptScore, Example, Latent, Naming, SAEReport, StepFigures
from saeuron.pages.pictures import Picture, picture_of
from saeuron.pages.sae import page
from saeuron.pages.sheet import sheet
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.dictionary import neighbours
from storage import Workspace, connect
from storage.catalog.diagnosis import MAPS
from storage.dense import shards
from storage.files import read_json, write_atomic
from storage.manifests import Manifest
from storage.seals import sealed_page
from storage.tables import PROMPTS, read_table
from tasks.sae.naming import naming
from tasks.sae.report import EXAMPLES, FIGURES, IMAGES, LATENTS, PROFILES, STABILITY, STEPS

SHOWN = 50
"""Latents on the page."""
NEIGHBOURS = 5
"""Nearest decoder rows shown for a latent."""

_SPECIFIC = """
WITH means AS (
    SELECT latent, domain, concept, avg(score) AS score FROM scores WHERE sae_id = ? AND protocol = ? GROUP BY ALL
)
SELECT latent FROM means GROUP BY latent ORDER BY max(score) DESC, latent LIMIT ?
"""
_SCORES = """
SELECT latent, domain, concept, list(timestep ORDER BY timestep DESC), list(score ORDER BY timestep DESC)
FROM scores WHERE sae_id = ? AND protocol = ? AND list_contains(?::UINTEGER[], latent)
GROUP BY ALL ORDER BY latent, avg(score) DESC, concept
"""


def newest(workspace: Workspace, stage: str, **wanted: str) -> Manifest | None:
    """The newest artifact of a stage whose summary has the wanted values."""
    found = [m for m in workspace.artifacts(stage) if all(m.summary.get(k) == v for k, v in wanted.items())]
    return max(found, key=lambda m: (m.created, m.id), default=None)


def protocol(workspace: Workspace, sae_id: str) -> str | None:
    """The protocol of an SAE's newest scores; None if it has none."""
    found = [m for m in workspace.artifacts("score") if any(s["sae_id"] == sae_id for s in m.summary["saes"])]
    return max(found, key=lambda m: (m.created, m.id)).summary["protocol"] if found else None


def specific(workspace: Workspace, sae_id: str, protocol: str, count: int = SHOWN) -> list[int]:
    """The latents with the highest score for any one concept, averaged over all steps."""
    with connect(workspace) as connection:
        return [row[0] for row in connection.execute(_SPECIFIC, [sae_id, protocol, count]).fetchall()]


def concept_scores(
    workspace: Workspace, sae_id: str, protocol: str, latents: Sequence[int]
) -> dict[int, list[ConceptScore]]:
    """{latent: its score for every scored concept, highest mean first}."""
    found: dict[int, list[ConceptScore]] = {latent: [] for latent in latents}
    with connect(workspace) as connection:
        rows = connection.execute(_SCORES, [sae_id, protocol, list(latents)]).fetchall()
    for latent, domain, concept, timesteps, values in rows:
        found[latent].append(ConceptScore(domain, concept, timesteps, values))
    return found


class Diagnosis:
    """The tables of one diagnosis, with a comparison to another SAE if there is one."""

    def __init__(self, workspace: Workspace, diagnosis_id: str, stability_id: str | None = None) -> None:
        self.workspace, self.manifest = workspace, workspace.manifest(diagnosis_id)
        self.folder = workspace.fetch(diagnosis_id)
        self.sae_id: str = self.manifest.summary["sae_id"]
        self.figures: dict[str, Any] = read_json(self.folder / FIGURES)
        table = read_table(self.folder / LATENTS)
        self.latents = {name: table[name].to_numpy() for name in table.column_names}
        self.against: str | None = None
        self.chance: float | None = None
        self.encoder: float | None = None
        """Mean cosine of the encoder rows of latents paired by their decoder rows."""
        self.stability: np.ndarray[Any, np.dtype[np.float64]] | None = None
        if stability_id is not None:
            compared = workspace.manifest(stability_id).summary
            self.against, self.chance, self.encoder = (compared[k] for k in ("against_id", "chance", "encoder"))
            self.stability = read_table(workspace.fetch(stability_id) / STABILITY)["stability"].to_numpy()

    @functools.cached_property
    def protocol(self) -> str | None:
        """The protocol of the SAE's newest scores. Looked up only when needed: it reads every score's manifest."""
        return protocol(self.workspace, self.sae_id)

    @property
    def n_latents(self) -> int:
        """N."""
        return len(self.latents["latent"])

    def shown(self) -> list[int]:
        """The latents of the page: the most specific ones, or if none were scored, those with the largest values."""
        if self.protocol is not None:
            return specific(self.workspace, self.sae_id, self.protocol)
        return [int(i) for i in np.argsort(-self.latents["maximum"], kind="stable")[:SHOWN]]

    def describe(self, latents: Sequence[int], *, near: bool = False) -> list[Latent]:
        """Records of some latents; `near` adds their nearest decoder rows, for which the SAE is loaded."""
        scores = (
            concept_scores(self.workspace, self.sae_id, self.protocol, latents) if self.protocol is not None else {}
        )
        W_dec = SAE.load(self.workspace.whole(self.sae_id)).W_dec if near else None
        return self._records(latents, scores, W_dec)

    def _records(
        self, latents: Sequence[int], scores: Mapping[int, Sequence[ConceptScore]], W_dec: Tensor | None
    ) -> list[Latent]:
        examples = self._examples(latents)
        profiles = read_table(self.folder / PROFILES)
        timesteps = self.figures["timesteps"]
        means = profiles["mean"].to_numpy().reshape(-1, len(timesteps))
        return [
            Latent(
                latent=i,
                **{
                    name: float(self.latents[name][i])
                    for name in ("density", "image_density", "mean", "maximum", "max_cosine")
                },
                nearest=int(self.latents["nearest"][i]),
                stability=None if self.stability is None else float(self.stability[i]),
                timesteps=timesteps,
                profile=means[i].tolist(),
                scores=scores.get(i, []),
                examples=examples[i],
                neighbours=[] if W_dec is None else neighbours(W_dec, i, NEIGHBOURS),
            )
            for i in latents
        ]

    def pictured(self, latents: Sequence[int]) -> list[Latent]:
        """Records of some latents without scores, so that no query of the workspace is needed."""
        return self._records(latents, {}, None)

    def _examples(self, latents: Sequence[int]) -> dict[int, list[Example]]:
        rows = read_table(self.folder / EXAMPLES, pc.field("latent").isin(latents)).to_pylist()
        keys = {f"{row['prompt_id']}_{row['image_index']:04d}" for row in rows}
        pictures, prompts = self._pictures(keys)
        height, width = self.figures["grid"]

        def map_of(row: dict[str, Any], name: str) -> NDArray[np.uint8] | None:
            # Tables of earlier versions have no thirds.
            found = row.get(name)
            return None if found is None else np.frombuffer(found, dtype=np.uint8).reshape(height, width)

        asked = self._asked({row["prompt_id"] for row in rows})
        found: dict[int, list[Example]] = {latent: [] for latent in latents}
        for row in rows:
            key = f"{row['prompt_id']}_{row['image_index']:04d}"
            found[row["latent"]].append(
                Example(
                    key=key,
                    prompt=prompts[key],
                    picture=pictures[key],
                    heat=map_of(row, MAPS[0]),
                    value=row["value"],
                    timestep=row["timestep"],
                    row=row["position"] // width,
                    column=row["position"] % width,
                    rank=row["rank"],
                    concepts=asked.get(row["prompt_id"], {}),
                    thirds=[map_of(row, name) for name in MAPS[1:]],
                )
            )
        return found

    def _asked(self, prompt_ids: set[str]) -> dict[str, dict[str, str]]:
        """{prompt id: {domain: concept}}."""
        path = self.workspace.whole(self.manifest.inputs["prompts"]) / PROMPTS.file
        table = read_table(path)
        wanted = table.filter(np.isin(table["prompt_id"].to_numpy(zero_copy_only=False), sorted(prompt_ids)))
        return {row["prompt_id"]: dict(row["concepts"]) for row in wanted.to_pylist()}

    def _pictures(self, keys: set[str]) -> tuple[dict[str, Picture], dict[str, str]]:
        pictures, prompts = {}, {}
        path = self.folder / IMAGES
        for member in shards.read_manifest(path).members:
            if member.key in keys:
                data = shards.read_member(path, member)
                if member.extension == "png":
                    pictures[member.key] = picture_of(data)
                else:
                    prompts[member.key] = data.decode()
        return pictures, prompts

    def steps(self) -> list[StepFigures]:
        """One record per (timestep, half), noisiest first."""
        return [StepFigures(**row) for row in read_table(self.folder / STEPS).to_pylist()]

    def naming(self) -> Naming | None:
        """What its latents name, by the newest proof, linked within the page; None: there is no proof."""
        proof = newest(self.workspace, "proof", sae_id=self.sae_id)
        return naming(self.workspace, proof, "#latent-{}".format) if proof is not None else None

    def report(self) -> SAEReport:
        """The contents of the page: the latents that name concepts follow those that are shown anyway."""
        found, shown = self.naming(), self.shown()
        best = [each.latent for each in found.concepts if each.latent is not None] if found else []
        return SAEReport(
            sae_id=self.sae_id,
            hookpoint=self.manifest.summary["hookpoint"],
            config=_config(self.workspace, self.sae_id),
            figures=self.figures,
            steps=self.steps(),
            density=self.latents["density"],
            max_cosine=self.latents["max_cosine"],
            stability=self.stability,
            against=self.against,
            chance=self.chance,
            dead=np.flatnonzero(self.latents["dead"]).tolist(),
            always_on=np.flatnonzero(self.latents["always_on"]).tolist(),
            latents=self.describe(list(dict.fromkeys([*shown, *best]))),
            protocol=self.protocol,
            naming=found,
        )


def _config(workspace: Workspace, sae_id: str) -> Mapping[str, Any]:
    """The description and training settings of an SAE, in the page's order."""
    manifest = workspace.manifest(sae_id)
    info = read_json(workspace.fetch(sae_id, "cfg.json") / "cfg.json")
    names = {"variant": "variant", "activation": "activation", "width": "D", "n_latents": "N", "k": "k"}
    shown = {said: info[name] for name, said in names.items() if name in info}
    training = manifest.config.get("config")
    if isinstance(training, dict):
        shown |= {k: v for k, v in training.items() if k not in names and k != "expansion" and v not in (None, {})}
    if "capture" in manifest.inputs:
        shown["trained on"] = manifest.inputs["capture"]
    if manifest.summary.get("fvu") is not None:
        shown["FVU on its training rows"] = manifest.summary["fvu"]
    return shown | {"made": manifest.created}


def write_page(diagnosis: Diagnosis, path: Path) -> Path:
    """Write the page, all or nothing."""
    write_atomic(path, sealed_page(page(diagnosis.report())))
    diagnosis.workspace.share(path)
    return path


def write_sheet(diagnosis: Diagnosis, latent: Latent, path: Path) -> Path:
    """Write the PNG of one latent."""
    made = sheet(latent, f"latent {latent.latent} of {diagnosis.sae_id}", path)
    diagnosis.workspace.share(made)
    return made
