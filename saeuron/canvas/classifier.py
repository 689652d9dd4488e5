"""The judges of canvas images: small convolutional networks with two heads, trained on renders.

Renders are augmented, so that a generated image is judged by what it shows and not by how cleanly it is drawn. The
second judge has another architecture, seed and augmentation. Nothing is tuned by it: it looks again at what was
measured (`saeuron evaluate --judge canvas_second`).
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron.canvas import FOLDERS
from saeuron.canvas.batches import draw_labels
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import CANVAS20, VOCABULARIES, Vocabulary
from saeuron.checkpoint import load_tensors, save_tensors


def judge_file(vocabulary: Vocabulary, second: bool = False) -> Path:
    """The path of the committed judge of a vocabulary, or of its second one."""
    return FOLDERS[vocabulary.name] / f"classifier{'_second' if second else ''}.safetensors"


class Network(nn.Module):
    """float32 [B, 3, 32, 32] in [-1, 1] -> logits of the vocabulary's n objects [B, n] and of style classes [B, 13]."""

    body: nn.Module
    object: nn.Linear
    style: nn.Linear

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(images).flatten(1)
        return self.object(x), self.style(x)


class Classifier(Network):
    """The first judge: convolutions with group norm."""

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


class Residual(Network):
    """The second: residual blocks with batch norm, and the mean and greatest of each map in place of the map."""

    def __init__(self, width: int = 32, vocabulary: Vocabulary = CANVAS20) -> None:
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        blocks = [_Block(inputs, outputs) for inputs, outputs in pairwise((width, *sizes))]
        stem = nn.Sequential(nn.Conv2d(3, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(stem, *blocks, _Pooled())
        self.object = nn.Linear(8 * width, len(vocabulary.objects))
        self.style = nn.Linear(8 * width, len(vocabulary.style_classes))


class _Block(nn.Module):
    """Half the height and width: two convolutions, beside a strided one of 1 x 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.beside = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.beside(x))


class _Pooled(nn.Module):
    """[B, C, H, W] -> [B, 2 C]: mean and greatest over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    n = len(images)
    u = torch.rand(n, 4, 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.where(u[:, 0] < 0.25, images.lerp(soft, 0.7), images)
    images = images * (0.8 + 0.2 * u[:, 1])
    noise = torch.randn(images.shape, generator=generator) * 0.12 * u[:, 2]
    return torch.where(u[:, 3] < 0.5, images + noise, images)


def _augment_otherwise(images: Tensor, generator: torch.Generator) -> Tensor:
    """For the second judge: moved by up to two pixels, blurred, of other contrast and brightness, a square left out."""
    n = len(images)
    u = torch.rand(n, 5, 1, 1, 1, generator=generator)
    down, across = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = images.roll((down, across), (2, 3))
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = images.lerp(soft, 0.8 * u[:, 0] * (u[:, 1] < 0.4))
    images = images * (0.7 + 0.3 * u[:, 2]) + 0.3 * (u[:, 3] - 0.5)
    row, column = torch.randint(0, 26, (2, n, 1, 1, 1), generator=generator)
    at = torch.arange(32)
    square = ((at[:, None] - row) // 6 == 0) & ((at - column) // 6 == 0) & (u[:, 4] < 0.3)
    return torch.where(square, images.mean((2, 3), keepdim=True), images)


def _batch(count: int, generator: torch.Generator, vocabulary: Vocabulary = CANVAS20) -> tuple[Tensor, Tensor, Tensor]:
    objects, styles = draw_labels(vocabulary, count, generator)
    return render(objects, styles, generator, vocabulary.objects), objects, styles


def train_classifier(
    *,
    steps: int = 1500,
    batch: int = 128,
    seed: int = 0,
    vocabulary: Vocabulary = CANVAS20,
    second: bool = False,
    report: Callable[[int, float], None] = lambda s, v: None,
) -> Network:
    """Train from nothing; Adam with a one-cycle learning rate. The same seed gives the same weights.

    Args:
        second: train the second judge, a `Residual`.
    """
    augment = _augment_otherwise if second else _augment
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Network = Residual(vocabulary=vocabulary) if second else Classifier(vocabulary=vocabulary)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        images, objects, styles = _batch(batch, generator, vocabulary)
        seen_objects, seen_styles = model(augment(images, generator).contiguous(memory_format=torch.channels_last))
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
    model: Network, *, images: int = 4000, seed: int = 1_000_001, vocabulary: Vocabulary = CANVAS20
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
    model: Network, *, each: int = 260, seed: int = 1_000_002, vocabulary: Vocabulary = CANVAS20
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


def save_classifier(model: Network, figures: dict[str, float], path: Path) -> None:
    """fp16 weights with their held-out accuracy in the metadata."""
    save_tensors(path, {k: v.half() for k, v in model.state_dict().items()}, {"held_out_accuracy": figures})


def load_classifier(path: Path) -> Network:
    """A saved classifier of either kind, in float32, ready to judge."""
    tensors, _ = load_tensors(path)
    known = {len(v.objects): v for v in VOCABULARIES.values()}
    network = Residual if "body.1.main.0.weight" in tensors else Classifier
    model = network(vocabulary=known[len(tensors["object.bias"])])
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval().requires_grad_(False)
