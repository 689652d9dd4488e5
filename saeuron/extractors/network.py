"""The Inception network of Frechet distances, with pytorch-fid's names of weights; `inception.py` says more."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron.errors import BadModel

WIDTH = 2048
SIDE = 299
_CLASSES = 1008
"""Classes of the graph's own classifier, which the checkpoint holds and nothing here uses."""


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, given: int, made: int, size: int | tuple[int, int], stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        padding = (sides[0] // 2, sides[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(given, made, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class _Block(nn.Module):
    """Branches side by side: chains of convolutions by name, and a pooling whose convolution, if any, is the last."""

    def __init__(self, chains: Mapping[str, tuple[str, ...]], pool: str, **convolutions: _Conv) -> None:
        super().__init__()
        for name, convolution in convolutions.items():
            self.add_module(name, convolution)
        self._chains, self._pool = chains, pool

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for ends in self._chains.values():
            y, *last = [x]
            for name in ends:
                # `a|b`: both on the same input, side by side.
                last = [self.get_submodule(part)(y) for part in name.split("|")]
                y = torch.cat(last, 1)
            found.append(y)
        pooled = {"mean": _mean, "largest": _largest, "halved": _halved}[self._pool](x)
        found.append(pooled if self._pool == "halved" else self.get_submodule("branch_pool")(pooled))
        return torch.cat(found, 1)


_THREE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
_SEVEN = tuple(f"branch7x7dbl_{i}" for i in range(1, 6))


def _a(given: int, pool: int) -> _Block:
    return _Block(
        {"1": ("branch1x1",), "5": ("branch5x5_1", "branch5x5_2"), "3": _THREE},
        "mean",
        branch1x1=_Conv(given, 64, 1),
        branch5x5_1=_Conv(given, 48, 1),
        branch5x5_2=_Conv(48, 64, 5),
        branch3x3dbl_1=_Conv(given, 64, 1),
        branch3x3dbl_2=_Conv(64, 96, 3),
        branch3x3dbl_3=_Conv(96, 96, 3),
        branch_pool=_Conv(given, pool, 1),
    )


def _b(given: int) -> _Block:
    return _Block(
        {"3": ("branch3x3",), "33": _THREE},
        "halved",
        branch3x3=_Conv(given, 384, 3, 2, pad=False),
        branch3x3dbl_1=_Conv(given, 64, 1),
        branch3x3dbl_2=_Conv(64, 96, 3),
        branch3x3dbl_3=_Conv(96, 96, 3, 2, pad=False),
    )


def _c(width: int) -> _Block:
    return _Block(
        {"1": ("branch1x1",), "7": ("branch7x7_1", "branch7x7_2", "branch7x7_3"), "77": _SEVEN},
        "mean",
        branch1x1=_Conv(768, 192, 1),
        branch7x7_1=_Conv(768, width, 1),
        branch7x7_2=_Conv(width, width, (1, 7)),
        branch7x7_3=_Conv(width, 192, (7, 1)),
        branch7x7dbl_1=_Conv(768, width, 1),
        branch7x7dbl_2=_Conv(width, width, (7, 1)),
        branch7x7dbl_3=_Conv(width, width, (1, 7)),
        branch7x7dbl_4=_Conv(width, width, (7, 1)),
        branch7x7dbl_5=_Conv(width, 192, (1, 7)),
        branch_pool=_Conv(768, 192, 1),
    )


def _d() -> _Block:
    return _Block(
        {"3": ("branch3x3_1", "branch3x3_2"), "7": tuple(f"branch7x7x3_{i}" for i in range(1, 5))},
        "halved",
        branch3x3_1=_Conv(768, 192, 1),
        branch3x3_2=_Conv(192, 320, 3, 2, pad=False),
        branch7x7x3_1=_Conv(768, 192, 1),
        branch7x7x3_2=_Conv(192, 192, (1, 7)),
        branch7x7x3_3=_Conv(192, 192, (7, 1)),
        branch7x7x3_4=_Conv(192, 192, 3, 2, pad=False),
    )


def _e(given: int, pool: str) -> _Block:
    return _Block(
        {
            "1": ("branch1x1",),
            "3": ("branch3x3_1", "branch3x3_2a|branch3x3_2b"),
            "33": ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a|branch3x3dbl_3b"),
        },
        pool,
        branch1x1=_Conv(given, 320, 1),
        branch3x3_1=_Conv(given, 384, 1),
        branch3x3_2a=_Conv(384, 384, (1, 3)),
        branch3x3_2b=_Conv(384, 384, (3, 1)),
        branch3x3dbl_1=_Conv(given, 448, 1),
        branch3x3dbl_2=_Conv(448, 384, 3),
        branch3x3dbl_3a=_Conv(384, 384, (1, 3)),
        branch3x3dbl_3b=_Conv(384, 384, (3, 1)),
        branch_pool=_Conv(given, 192, 1),
    )


class Network(nn.Module):
    """Images float32 [B, 3, 299, 299] in [-1, 1] -> [B, 2048]; weights have pytorch-fid's names."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        self.Mixed_7b, self.Mixed_7c = _e(1280, "mean"), _e(2048, "largest")
        self.fc = nn.Linear(WIDTH, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.named_children():
            if name == "fc":
                break
            x = module(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = _halved(x)
        return x.mean((2, 3))


def of_weights(weights: Mapping[str, Tensor], source: object) -> Network:
    """The network with these weights, in float32.

    Raises:
        BadModel: a weight is missing, or there are others: it is not this network.
    """
    with torch.device("meta"):
        model = Network()
    # Counters of batches that were seen in training; some files leave them out, and nothing reads them.
    wanted = {name: value.shape for name, value in model.state_dict().items() if not name.endswith("batches_tracked")}
    found = {name: value.float() for name, value in weights.items() if not name.endswith("batches_tracked")}
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            has = list(found[name].shape) if name in found else "none"
            raise BadModel(
                f"{source} is no Inception network of Frechet distances: {name} is {has}, expected {list(shape)}."
            )
    if more := sorted(found.keys() - wanted.keys()):
        raise BadModel(f"{source} is no Inception network of Frechet distances: it has {more[0]} besides.")
    counters = {
        name: torch.zeros((), dtype=torch.int64) for name in model.state_dict() if name.endswith("batches_tracked")
    }
    model.load_state_dict({**found, **counters}, assign=True)
    return model.eval().requires_grad_(False)


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, 299, 299] in [-1, 1]."""
    resized = [
        [
            np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        for image in images
    ]
    return (torch.from_numpy(np.array(resized)).clamp(0, 255) - 128) / 128
