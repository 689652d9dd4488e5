"""Which latents fire on a picture that somebody brings, and where: without drawing anything.

The picture is encoded, noised to some of the model's timesteps, and denoised once at each, as SAEs are measured
(saeuron/sae/diagnosis/denoising.py). A latent's strength is the mean over these of its largest value over positions, as
explanations count it. Latents that are always on would come first; so the same is done with a plain picture of the mean
colour and with the same noise, and latents are sorted by the difference.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.config import in_text
from saeuron.errors import ConfigError
from saeuron.pages.pictures import Picture
from storage.manifests import Manifest
from tasks.explore.shelf import Shelf

FORMATS = ("PNG", "JPEG", "WEBP")
PIXELS = 40_000_000
"""Most pixels of a picture that is taken."""
STEPS = 4
"""Timesteps that are looked at."""
SHOWN = 8
"""Latents of each SAE."""
_CONCEPTS = """
WITH means AS (
    SELECT latent, concept, avg(score) AS mean FROM scores_by_latent
    WHERE sae_id = ? AND protocol = ? AND list_contains(?::UINTEGER[], latent) GROUP BY ALL
)
SELECT latent, arg_max(concept, mean) AS concept FROM means GROUP BY latent
"""
SEED = 9
"""Seed of the noise, which is the same for every picture."""


@dataclass(frozen=True)
class Look:
    """A picture and its description, which may be empty."""

    picture: Picture
    prompt: str = ""
    query: str = ""
    """Counterpart of `Request.query`; always empty, because a link cannot hold a picture."""


@dataclass(frozen=True)
class Fired:
    """A latent that fires on a picture."""

    latent: int
    strength: float
    plain: float
    """Its strength on a plain picture of the mean colour."""
    timestep: int
    """The timestep at which its largest value is highest."""
    heat: NDArray[np.uint8] | None
    """[h, w] at that timestep, 255 its largest value there; None: its positions do not form a map of the picture."""
    rule: str = ""
    """Its rule, if its SAE was explained."""
    concept: str = ""
    """The concept with its highest mean score; empty: its SAE was not scored."""


@dataclass(frozen=True)
class Seen:
    """Latents of one SAE on a picture."""

    sae_id: str
    hookpoint: str
    fired: Sequence[Fired]
    silent: int
    """Latents that do not fire at any of the timesteps."""


def picture(data: bytes) -> Picture:
    """The picture of a file's bytes. Raises ConfigError, in one line."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > PIXELS:
            raise ConfigError(f"the picture has {image.width} x {image.height} pixels; expected at most {PIXELS:,}.")
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise ConfigError(
            f"this is not a picture; expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        ) from None


def looked_at(shelf: Shelf) -> list[Manifest]:
    """The SAEs that look: the newest trained one of each hookpoint that sees pictures.

    Raises:
        ConfigError: there is none.
    """
    newest: dict[str, Manifest] = {}
    for m in shelf.of("sae"):
        if m.summary.get("dictionary") in (None, "trained") and not in_text(m.summary["hookpoint"]):
            newest[m.summary["hookpoint"]] = m
    if not newest:
        raise ConfigError("no SAE that sees pictures was trained here yet; run: saeuron run")
    return [newest[hookpoint] for hookpoint in sorted(newest)]


def fitted(given: Picture, height: int, width: int) -> Picture:
    """The middle of a picture in another shape, [height, width, 3]; the same where it fits."""
    from PIL import Image, ImageOps

    if given.shape[:2] == (height, width):
        return given
    return np.asarray(ImageOps.fit(Image.fromarray(given), (width, height), Image.Resampling.LANCZOS))


def look(shelf: Shelf, asked: Look, device: str, tell: Callable[[int, int], None]) -> tuple[Picture, list[Seen]]:
    """Look at a picture with every SAE of `looked_at`.

    Args:
        tell: called before each timestep with (timesteps done, all); an exception from it ends the work.

    Returns:
        (the picture as the model sees it, what each SAE says).
    """
    import torch

    from saeuron.generation import latent_shape
    from saeuron.hooks import Step, attached, to_rows
    from saeuron.noise import generator
    from saeuron.pipelines import family_of
    from saeuron.sae.autoencoder import SAE
    from saeuron.sae.diagnosis.denoising import evenly
    from tasks.engine import model
    from tasks.explore.trying import Request, model_of

    manifests, config = looked_at(shelf), model_of(shelf, Request())
    pipe = model.pipeline(config, device)
    family, shape = family_of(pipe), latent_shape(pipe, config)
    seen = fitted(asked.picture, *(side * pipe.vae_scale_factor for side in shape[1:]))
    plain = np.broadcast_to(seen.mean((0, 1)).round().astype(np.uint8), seen.shape)
    saes = {m.id: SAE.load(shelf.workspace.whole(m.id), device) for m in manifests}
    values: dict[str, list[torch.Tensor]] = {m.id: [] for m in manifests}
    sides: dict[str, tuple[int, int] | None] = {}

    def reader(sae_id: str, read: str) -> Any:
        def keep(step: Step, output: torch.Tensor, source: torch.Tensor | None) -> None:
            output = output - source if read == "update" and source is not None else output
            rows = to_rows(step.half(output, "conditional", 2)).float()
            sides[sae_id] = _map(output.shape, rows.shape[1], shape[1] / shape[2])
            values[sae_id].append(saes[sae_id].encode(rows).cpu())

        return keep

    with torch.no_grad():
        clean = family.encode_images(pipe, torch.from_numpy(np.stack([seen, plain])))
        prompts = family.encode_prompt(pipe, [asked.prompt] * 2)
        pipe.scheduler.set_timesteps(config.steps)
        timesteps = evenly(sorted({int(t) for t in pipe.scheduler.timesteps.tolist()}, reverse=True), STEPS)
        readers = {m.summary["hookpoint"]: reader(m.id, _read(shelf, m)) for m in manifests}
        with attached(pipe, readers=readers):
            for i, timestep in enumerate(timesteps):
                tell(i, len(timesteps))
                noise = torch.randn(clean.shape[1:], generator=generator(SEED, "look", timestep)).to(clean)
                noised = family.add_noise(pipe, clean, noise.expand_as(clean), timestep)
                family.predict_noise(pipe, noised, timestep, prompts)
    return seen, [
        _said(shelf, m, torch.stack(values[m.id]).numpy(), timesteps, sides[m.id]) for m in manifests if values[m.id]
    ]


def _read(shelf: Shelf, sae: Manifest) -> str:
    """The tensor that the SAE was trained on: output or update."""
    capture = shelf.manifests.get(str(sae.inputs.get("capture", "")))
    return str(capture.config.get("config", {}).get("read", "output")) if capture else "output"


def _map(shape: Sequence[int], positions: int, aspect: float) -> tuple[int, int] | None:
    """Rows and columns of the positions, if they are a map of the picture."""
    if len(shape) == 4:
        return int(shape[2]), int(shape[3])
    height = round((positions * aspect) ** 0.5)
    return (height, positions // height) if positions > 1 and positions % max(height, 1) == 0 else None


def _said(
    shelf: Shelf, sae: Manifest, f: NDArray[np.float32], timesteps: Sequence[int], side: tuple[int, int] | None
) -> Seen:
    """Args: f: [T, 2, P, N], of the picture and of the plain one."""
    from tasks.explore.latents import explained

    highest = f.max(2)
    strength, plain = highest.mean(0)
    order = np.argsort(-(strength - plain), kind="stable")[:SHOWN]
    order = order[strength[order] > plain[order]]
    protocol = shelf.protocols.get(sae.id)
    scored = shelf.rows(_CONCEPTS, sae.id, protocol, order.tolist()) if protocol else []
    concepts = {row["latent"]: row["concept"] for row in scored}
    fired = []
    for latent in order.tolist():
        at = int(highest[:, 0, latent].argmax())
        rows = f[at, 0, :, latent]
        heat = (255 * rows / max(float(rows.max()), 1e-12)).clip(0, 255).round().astype(np.uint8)
        about = explained(shelf, sae.id, latent)
        fired.append(
            Fired(
                latent,
                float(strength[latent]),
                float(plain[latent]),
                timesteps[at],
                heat.reshape(side) if side else None,
                (about.rule or "") if about else "",
                concepts.get(latent, ""),
            )
        )
    silent = int((highest[:, 0].max(0) <= 0).sum())
    return Seen(sae.id, sae.summary["hookpoint"], fired, silent)
