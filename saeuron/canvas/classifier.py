"""The judge of canvas images: a small convolutional network with two heads, trained on renders.

Renders are augmented with blur, noise and faint contrast, so that a generated image is judged by what it shows and not
by how cleanly it is drawn.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron.canvas import FOLDERS
from saeuron.canvas.batches import draw_labels
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import CANVAS20, VOCABULARIES, Vocabulary
from saeuron.checkpoint import load_tensors, save_tensors

log = logging.getLogger(__name__)


def judge_file(vocabulary: Vocabulary) -> Path:
    """Where the committed judge of a vocabulary lies."""
    return FOLDERS[vocabulary.name] / "classifier.safetensors"


class Classifier(nn.Module):
    """float32 [B, 3, 32, 32] in [-1, 1] -> logits of the vocabulary's n objects [B, n] and of style classes [B, 13]."""

    def __init__(self, width: int = 32, vocabulary: Vocabulary = CANVAS20) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
                nn.Conv2d(outputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
            )  # fmt: skip

        self.body = nn.Sequential(block(3, width), block(width, 2 * width), block(2 * width, 4 * width))
        features = 4 * width * 4 * 4
        self.object = nn.Linear(features, len(vocabulary.objects))
        self.style = nn.Linear(features, len(vocabulary.style_classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(images).flatten(1)
        return self.object(x), self.style(x)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    n = len(images)
    u = torch.rand(n, 4, 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.where(u[:, 0] < 0.25, images.lerp(soft, 0.7), images)
    images = images * (0.8 + 0.2 * u[:, 1])
    noise = torch.randn(images.shape, generator=generator) * 0.12 * u[:, 2]
    return torch.where(u[:, 3] < 0.5, images + noise, images)


def _batch(count: int, generator: torch.Generator, vocabulary: Vocabulary = CANVAS20) -> tuple[Tensor, Tensor, Tensor]:
    objects, styles = draw_labels(vocabulary, count, generator)
    return render(objects, styles, generator, vocabulary.objects), objects, styles


def train_classifier(
    *,
    steps: int = 1500,
    batch: int = 128,
    seed: int = 0,
    vocabulary: Vocabulary = CANVAS20,
    report: Callable[[int, float], None] = lambda s, v: None,
) -> Classifier:
    """Train from nothing; Adam with a one-cycle learning rate. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(vocabulary=vocabulary)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        images, objects, styles = _batch(batch, generator, vocabulary)
        seen_objects, seen_styles = model(_augment(images, generator).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(seen_objects, objects) + F.cross_entropy(seen_styles, styles)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            report(step + 1, loss.item())
    return model.eval()


@torch.no_grad()
def accuracy(
    model: Classifier, *, images: int = 4000, seed: int = 1_000_001, vocabulary: Vocabulary = CANVAS20
) -> dict[str, float]:
    """Share of held-out renders recognised, per head."""
    generator = torch.Generator().manual_seed(seed)
    right = {"object": 0, "style": 0}
    for _ in range(0, images, 500):
        pictures, objects, styles = _batch(500, generator, vocabulary)
        seen_objects, seen_styles = model(pictures)
        right["object"] += int((seen_objects.argmax(1) == objects).sum())
        right["style"] += int((seen_styles.argmax(1) == styles).sum())
    return {head: count / images for head, count in right.items()}


@torch.no_grad()
def object_accuracy(
    model: Classifier, *, each: int = 260, seed: int = 1_000_002, vocabulary: Vocabulary = CANVAS20
) -> dict[str, float]:
    """Share of `each` held-out renders of every object recognised, all style classes alike."""
    generator = torch.Generator().manual_seed(seed)
    styles = torch.arange(each) % len(vocabulary.style_classes)
    found = {}
    for index, name in enumerate(vocabulary.objects):
        objects = torch.full((each,), index)
        seen = model(render(objects, styles, generator, vocabulary.objects))[0].argmax(1)
        found[name] = int((seen == index).sum()) / each
    return found


def save_classifier(model: Classifier, figures: dict[str, float], path: Path) -> None:
    """fp16 weights with their held-out accuracy in the metadata."""
    save_tensors(path, {k: v.half() for k, v in model.state_dict().items()}, {"held_out_accuracy": figures})


def load_classifier(path: Path) -> Classifier:
    """A saved classifier, in float32, ready to judge."""
    tensors, _ = load_tensors(path)
    known = {len(v.objects): v for v in VOCABULARIES.values()}
    model = Classifier(vocabulary=known[len(tensors["object.bias"])])
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval().requires_grad_(False)
