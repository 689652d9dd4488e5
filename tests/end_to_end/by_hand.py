"""The stages of a run again, by torch's own hooks, loops and float64: what a workspace holds is compared with these.

Of the library they take the starting noise, the weights an SAE starts from, and how a pipeline is loaded.
"""

import functools
import io
import math
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo, unit_rows

Pictures = NDArray[np.uint8]
Change = Callable[[int, Tensor], Tensor]
"""(number of the step, rows float64 [B, P, D]) -> what is added to them."""


def members(path: Path, ending: str) -> dict[str, bytes]:
    """{key: bytes} of the members of a shard with that ending, in its order."""
    with tarfile.open(path) as tar:
        return {
            m.name.partition(".")[0]: tar.extractfile(m).read()  # type: ignore[union-attr]
            for m in tar
            if m.name.endswith(f".{ending}")
        }


def picture(data: bytes) -> Pictures:
    """The picture of a PNG, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


class Model:
    """A tiny pipeline with one module that is read, or changed, by a hook."""

    def __init__(self, folder: Path, hookpoint: str, steps: int, guidance: float) -> None:
        self.pipe, self.steps, self.guidance = load_pipeline(folder), steps, guidance
        root, _, rest = hookpoint.partition(".")
        self.module = getattr(self.pipe, root).get_submodule(rest)
        self.kind = type(self.pipe).__name__
        self.guided = guidance > 1 and "Flux" not in self.kind

    def draw(
        self, images: Sequence[tuple[str, int]], seed: int, change: Change | None = None, full: bool = True
    ) -> tuple[Pictures, Tensor]:
        """One plain call of the pipeline.

        Args:
            images: (prompt, index).
            change: what a hook adds to the module's rows, of both halves.
            full: fill the batch up to a multiple of eight with the last image, as stages do, so that nothing rounds
                differently.

        Returns:
            (uint8 [n, H, W, 3], the module's rows before the change: float32 [T, n, P, D], of the conditional half).
        """
        filled = [*images, *[images[-1]] * (-len(images) % 8 if full else 0)]
        channels = 4
        noise = initial_noise(seed, [(Prompt(text, "test").id, index) for text, index in filled], (channels, 8, 8))
        about = {
            "latents": noise, "num_inference_steps": self.steps, "output_type": "np", "height": 16, "width": 16,
            "guidance_scale": self.guidance,
        }  # fmt: skip
        if "Flux" in self.kind:
            about["latents"] = self.pipe._pack_latents(noise, len(filled), channels, 8, 8)
        if "PixArt" in self.kind:
            about |= {"use_resolution_binning": False, "clean_caption": False}
        seen: list[Tensor] = []

        def after(module: Any, given: Any, output: Any) -> Any:
            streams = list(output) if isinstance(output, tuple) else [output]
            # Joint blocks return the text's positions too, whose number is another.
            place = next(i for i, x in enumerate(streams) if x.ndim == 4 or x.shape[1] == 16)
            x = streams[place]
            rows = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
            step = len(seen)
            seen.append(rows.detach().clone())
            if change is None:
                return None
            rows = (rows.double() + change(step, rows.double())).float()
            streams[place] = rows.transpose(1, 2).reshape(x.shape) if x.ndim == 4 else rows
            return tuple(streams) if isinstance(output, tuple) else streams[0]

        handle = self.module.register_forward_hook(after)
        try:
            made = self.pipe([text for text, _ in filled], **about).images
        finally:
            handle.remove()
        rows = torch.stack([x[len(filled) if self.guided else 0 :][: len(images)] for x in seen])
        return (made * 255).round().astype(np.uint8)[: len(images)], rows


@dataclass
class Trained:
    """Tensors of an SAE by name, and means over all steps."""

    tensors: dict[str, Tensor]
    fvu: float
    l0: float
    loss: float


def train(config: Mapping[str, Any], batches: Sequence[Tensor], alpha: float, rate: float, seed: int) -> Trained:
    """BatchTopK with AuxK (2412.06410; 2406.04093, appendix A.2), in float64, one step for each batch [B, D].

    The learning rate falls linearly from `rate` to zero; gradients are clipped to a norm of 1; rows of W_dec stay of
    unit norm, and their gradients have no part along them. A latent is dead after a tenth of all rows in silence.
    """
    steps, k, (size, width) = len(batches), config["k"], batches[0].shape
    n = config["expansion"] * width
    x = batches[0].double()
    centre = x.mean(0)
    for _ in range(50):  # Weiszfeld
        near = 1 / (x - centre).norm(dim=1).clamp(min=1e-6)
        centre = (near[:, None] * x).sum(0) / near.sum()
    start = unit_rows(SAEInfo("batch_topk", width, n, k), seed).double()
    W_enc, W_dec = start.clone().requires_grad_(), start.clone().requires_grad_()
    b_enc, b_dec = torch.zeros(n).double().requires_grad_(), centre.clone().requires_grad_()
    weights = [W_enc, W_dec, b_enc, b_dec]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    silent, theta, figures = torch.zeros(n), torch.zeros(()).double(), list[tuple[float, float, float]]()
    for step, batch in enumerate(batches):
        x = batch.double()
        p = (x - b_dec) @ W_enc.T + b_enc
        least = p.detach().flatten().sort(descending=True).values[k * size - 1]
        kept = (p >= least) & (p > 0)
        f = torch.where(kept, p, 0.0)
        error = x - (f @ W_dec + b_dec)
        variance = (x - x.mean(0)).square().sum()
        fvu = loss = error.square().sum() / variance
        dead = (silent >= steps * size // 10).nonzero().flatten()
        if len(dead):
            most = width // 2
            q = p[:, dead].relu()
            if len(dead) > most:
                q = torch.where(p[:, dead] >= p[:, dead].topk(most).values[:, -1:], q, 0.0)
            left = error.detach() - q @ W_dec[dead]
            loss = loss + alpha * min(1.0, len(dead) / most) * left.square().sum() / variance
        gradients = list(torch.autograd.grad(loss, weights))
        gradients[1] = gradients[1] - (gradients[1] * W_dec.detach()).sum(1, keepdim=True) * W_dec.detach()
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                g = gradient * min(1.0, 1 / (norm + 1e-6))
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g.square()
                mean, square = first[i] / (1 - 0.9 ** (step + 1)), second[i] / (1 - 0.999 ** (step + 1))
                weight -= rate * (1 - step / steps) * mean / (square.sqrt() + 6.25e-10)
            W_dec /= W_dec.norm(dim=1, keepdim=True)
        theta = theta + (p.detach()[kept].min() - theta) / (step + 1)
        silent = torch.where(kept.any(0), 0, silent + size)
        figures.append((fvu.item(), int(kept.sum()) / size, loss.item()))
    means = [sum(column) / steps for column in zip(*figures, strict=True)]
    tensors = dict(zip(("W_enc", "W_dec", "b_enc", "b_dec"), (w.detach() for w in weights), strict=True))
    return Trained(tensors | {"threshold": theta.expand(n)}, *means)


class Plain:
    """An SAE with thresholds, in float64."""

    def __init__(self, sae: SAE) -> None:
        tensors = {name: value.double() for name, value in sae.state_dict().items()}
        self.W_enc, self.W_dec, self.b_enc = tensors["W_enc"], tensors["W_dec"], tensors["b_enc"]
        self.b_dec, self.theta = tensors["b_dec"], tensors["threshold"]

    def encode(self, x: Tensor) -> Tensor:
        """f [..., N] of rows [..., D]."""
        p = self.pre(x)
        return torch.where(p > self.theta, p.clamp(min=0), 0.0)

    def pre(self, x: Tensor) -> Tensor:
        """p [..., N] of rows [..., D]."""
        return (x.double() - self.b_dec) @ self.W_enc.T + self.b_enc

    def figures(self, x: Tensor) -> tuple[float, float, float]:
        """(FVU, L0, share of latents that never fire) over rows [M, D]."""
        f, x = self.encode(x), x.double()
        error, spread = x - (f @ self.W_dec + self.b_dec), x - x.mean(0)
        unexplained = float(error.square().sum() / spread.square().sum())
        return unexplained, float((f > 0).sum()) / len(x), float((f > 0).sum(0).eq(0).double().mean())


@dataclass
class Scored:
    """Of one concept, T steps and N latents."""

    mean: NDArray[np.float64]
    """mu(i,t,c), [T, N]."""
    floor: NDArray[np.float64]
    """m(i,t), the mean of the means of all concepts, [T, N]."""
    score: NDArray[np.float64]
    """s(i,t,c), [T, N]."""

    def best(self, n: int) -> list[list[int]]:
        """F: the n latents with the highest score at each step, best first; of equal ones the lower."""
        return [sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:n] for row in self.score]  # type: ignore[misc]


def score(sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, int], concept: str) -> Scored:
    """The statistics of a concept from the sums [T, N] over as many rows of each concept of its domain."""
    (steps, n), others = sums[concept].shape, [c for c in sums if c != concept]
    found = Scored(*(np.zeros((steps, n)) for _ in range(3)))
    for t in range(steps):
        mean = {c: [sums[c][t, i] / rows[c] for i in range(n)] for c in sums}
        pooled = [sum(sums[c][t, i] for c in others) / sum(rows[c] for c in others) for i in range(n)]
        for i in range(n):
            found.mean[t, i] = mean[concept][i]
            found.floor[t, i] = sum(mean[c][i] for c in sums) / len(sums)
            found.score[t, i] = mean[concept][i] / (sum(mean[concept]) + 1e-8) - pooled[i] / (sum(pooled) + 1e-8)
    return found


def removal(sae: Plain, about: Scored, n: int, gamma: float) -> Change:
    """x' - x = sum over F of (f' - f) W_dec, f' = gamma mu f where f is above m."""
    chosen = about.best(n)

    def change(step: int, x: Tensor) -> Tensor:
        f, added = sae.encode(x), torch.zeros_like(x)
        for i in chosen[step]:
            over = f[..., i] > about.floor[step, i]
            less = torch.where(over, (gamma * about.mean[step, i] - 1) * f[..., i], 0.0)
            added += less[..., None] * sae.W_dec[i]
        return added

    return change


@functools.cache
def clip(folder: Path) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor)."""
    return tuple(kind.from_pretrained(folder) for kind in (CLIPModel, PreTrainedTokenizerFast, CLIPImageProcessorPil))  # type: ignore[return-value]


def judge(folder: Path, pictures: Pictures, labels: Sequence[str]) -> list[str]:
    """What a CLIP sees on pictures: one of the labels, or none of these."""
    (model, words, pixels), rest = clip(folder), ["a photo", "a picture", "a picture of something else"]
    sentences = [*(f"a photo of a {label}" for label in labels), *rest]
    tokens = words(sentences, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        seen = model(tokens["input_ids"], pixels(list(pictures), return_tensors="pt")["pixel_values"])
    texts = seen.text_embeds / seen.text_embeds.norm(dim=1, keepdim=True)
    none = texts[len(labels) :].mean(0)
    directions = torch.stack([*texts[: len(labels)], none / none.norm()])
    return [[*labels, "none of these"][i] for i in (seen.image_embeds @ directions.T).argmax(1).tolist()]


@dataclass(frozen=True)
class Seen:
    """What one image was asked to show, and what the judges see."""

    style: str
    object: str
    seen_style: str
    seen_object: str


def metrics(images: Sequence[Seen], concept: str) -> dict[str, tuple[float, int]]:
    """{metric: (value, images)} of the removal of a style."""
    mine, others = [i for i in images if i.style == concept], [i for i in images if i.style != concept]

    def share(rights: Sequence[bool]) -> float:
        return sum(rights) / len(rights)

    each = [share([i.seen_style == c for i in others if i.style == c]) for c in {i.style for i in others}]
    cra = {"CRA": images, "CRA-retained": others, "CRA-target": mine}
    return {
        "UA": (share([i.seen_style != concept for i in mine]), len(mine)),
        "IRA": (sum(each) / len(each), len(others)),
    } | {name: (share([i.seen_object == i.object for i in among]), len(among)) for name, among in cra.items()}
