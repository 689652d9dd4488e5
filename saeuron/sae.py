"""Sparse autoencoders: a flat class, inference only; training stands in `sae_training.py`.

Notation of METHODS: x in R^D, p = W_enc (x - b_dec) + b_enc, f = activation(p), x_hat = f W_dec + b_dec;
W_enc and W_dec are both (N, D).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.errors import BadWeights, WidthMismatch
from saeuron.noise import generator

Variant = Literal["topk", "batch_topk"]
Activation = Literal["topk", "threshold"]


@dataclass(frozen=True)
class SAEInfo:
    """What an SAE is; stored as `cfg.json` beside the weights."""

    variant: Variant
    width: int
    """D, the width of the activations."""
    n_latents: int
    """N."""
    k: int
    """Active latents per row (on average, for batch_topk)."""
    hookpoint: str = ""

    @property
    def activation(self) -> Activation:
        """What inference uses: `threshold` needs no comparison between latents, so any subset can be computed alone."""
        return "topk" if self.variant == "topk" else "threshold"


def top_k(pre: Tensor, k: int) -> Tensor:
    """F = ReLU(p) on the k largest p of each row (2406.04093, equation 2); [..., N] -> [..., N]."""
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def batch_top_k(pre: Tensor, k: int) -> Tensor:
    """The k * B largest ReLU(p) of the whole batch (2412.06410, section 3); [B, N] -> [B, N].

    Ties at the boundary are all kept.
    """
    active = pre.relu()
    count = k * len(pre)
    if count >= active.numel():
        return active
    least = kth_largest(active.detach(), count)
    return active * ((active >= least) & (active > 0))


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of all values, a scalar of their dtype."""
    flat = values.flatten()
    if flat.device.type == "cpu" and flat.dtype == torch.float32:
        # numpy's quickselect is vectorised; torch.topk sorts pairs of value and index: ten times slower at these sizes.
        return flat.new_tensor(np.partition(flat.numpy(), len(flat) - k)[len(flat) - k])
    return flat.topk(k, sorted=False).values.min()


def over_threshold(pre: Tensor, threshold: Tensor | float) -> Tensor:
    """F = ReLU(p) where p > theta, else 0."""
    return pre.relu() * (pre > threshold)


class SAE(nn.Module):
    """One sparse autoencoder.

    Attributes:
        W_enc, W_dec: (N, D); rows of W_dec have unit norm.
        b_enc: (N); b_dec: (D).
        threshold: scalar; batch_topk's running mean of the least kept activation, 0 until trained.
    """

    def __init__(self, info: SAEInfo, seed: int = 0) -> None:
        super().__init__()
        self.info = info
        rows = torch.randn(info.n_latents, info.width, generator=generator(seed, "sae", info.n_latents, info.width))
        rows = rows / rows.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(info.n_latents))
        self.b_dec = nn.Parameter(torch.zeros(info.width))
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(()))

    def pre_activations(self, x: Tensor) -> Tensor:
        """p, [..., N], of x [..., D].

        Raises:
            WidthMismatch: x has another width than the SAE was made for.
        """
        check_width(self.info.width, x.shape[-1], f"the SAE for {self.info.hookpoint or 'an unnamed hookpoint'}")
        return (x - self.b_dec) @ self.W_enc.T + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """F at inference, [..., N] of x [..., D]; each row depends on itself alone."""
        pre = self.pre_activations(x)
        return top_k(pre, self.info.k) if self.info.activation == "topk" else over_threshold(pre, self.threshold)

    def decode(self, latents: Tensor) -> Tensor:
        """x_hat, [..., D] of f [..., N]."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def save(self, folder: Path) -> None:
        """Write `sae.safetensors` (float32) and `cfg.json`."""
        import json

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.float() for name, value in self.state_dict().items()}
        save_tensors(folder / "sae.safetensors", tensors, asdict(self.info))
        (folder / "cfg.json").write_text(json.dumps(asdict(self.info), indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "SAE":
        """Read what `save` wrote.

        Raises:
            BadWeights: the file is damaged, or its tensors do not fit its configuration.
        """
        tensors, metadata = load_tensors(folder / "sae.safetensors")
        return cls.from_tensors(tensors, metadata, str(folder)).to(device)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], metadata: dict[str, Any], source: str) -> "SAE":
        """Build an SAE from named tensors and the fields of `SAEInfo`."""
        try:
            info = SAEInfo(**metadata)
            if info.variant not in get_args(Variant) or not 1 <= info.k <= info.n_latents:
                raise ValueError(f"variant {info.variant!r} with k {info.k} of {info.n_latents} latents")
            sae = cls(info)
            sae.load_state_dict(tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadWeights(f"{source} does not hold an SAE of this project: {str(error).splitlines()[0]}") from error
        return sae.requires_grad_(False)


def check_width(expected: int, found: int, what: str) -> None:
    """Raise `WidthMismatch` unless the widths agree."""
    if expected != found:
        raise WidthMismatch(
            f"{what} expects activations of width {expected}, the hookpoint gives {found}; "
            "attach it where it was trained, or train one for this hookpoint."
        )
