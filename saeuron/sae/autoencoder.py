"""Sparse autoencoders at inference: one flat class. Training is in `training.py`.

Notation: x in R^D, p = W_enc (x - b_dec) + b_enc, f = activation(p), x_hat = f W_dec + b_dec;
W_enc and W_dec are both (N, D).
"""

import re
import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.errors import BadWeights, WidthMismatch
from saeuron.noise import generator
from saeuron.sae.selection import Activation, activate

_HOOKPOINT = re.compile(r"[\w-]+(\.[\w-]+)*(:input)?")


@dataclass(frozen=True)
class SAEInfo:
    """Description of an SAE; stored as `cfg.json` beside the weights."""

    variant: str
    """How it was trained: a name of `saeuron.sae.variants`, or another library's name."""
    width: int
    """D, the width of the activations."""
    n_latents: int
    """N, the number of latents."""
    k: int
    """Active latents per row: exact for the activation `topk`, a mean for others; 0 if unknown."""
    hookpoint: str = ""
    activation: Activation = "threshold"
    """The activation function at inference."""

    def check(self) -> None:
        """Check every field. The fields may come from a file that others wrote; a hookpoint becomes a folder name.

        Raises:
            ValueError: a field has the wrong type or an impossible value.
        """
        for name, value in vars(self).items():
            kind, words = (int, "a whole number") if name in ("width", "n_latents", "k") else (str, "a string")
            if type(value) is not kind:
                raise ValueError(f"{name} {reprlib.repr(value)}; expected {words}")
        if self.activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise ValueError(f"activation {reprlib.repr(self.activation)}; expected one of {known}")
        for name, size in (("width", self.width), ("n_latents", self.n_latents)):
            if not 1 <= size < 2**63:
                raise ValueError(f"{name} {reprlib.repr(size)}; expected 1 or more")
        if not (self.activation == "topk") <= self.k <= self.n_latents:
            k = reprlib.repr(self.k)
            raise ValueError(f"k {k} of {self.n_latents} latents; expected at most as many, and of topk at least 1")
        if not self.variant.isprintable():
            raise ValueError(f"variant {reprlib.repr(self.variant)}; expected a name")
        if self.hookpoint and not _HOOKPOINT.fullmatch(self.hookpoint):
            raise ValueError(
                f"hookpoint {reprlib.repr(self.hookpoint)}; expected a module's dotted name, such as unet.mid_block: "
                "give it with --hookpoint"
            )


class SAE(nn.Module):
    """One sparse autoencoder.

    Attributes:
        W_enc, W_dec: (N, D); rows of W_dec have unit norm unless the variant says otherwise.
        b_enc: (N); b_dec: (D).
        threshold: theta, (N); 0 until trained.
    """

    def __init__(self, info: SAEInfo, seed: int | None = 0) -> None:
        """`seed` draws the weights; None leaves them undefined, for a caller that loads weights."""
        super().__init__()
        self.info = info
        if seed is None:
            rows = torch.empty(info.n_latents, info.width)
            self.W_dec, self.W_enc = nn.Parameter(rows), nn.Parameter(torch.empty_like(rows))
        else:
            rows = unit_rows(info, seed).to(torch.get_default_device())
            self.W_dec, self.W_enc = nn.Parameter(rows), nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(info.n_latents))
        self.b_dec = nn.Parameter(torch.zeros(info.width))
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(info.n_latents))

    def __repr__(self) -> str:
        about, at = self.info, f" at {self.info.hookpoint}" if self.info.hookpoint else ""
        k = f", k={about.k}" if about.k else ""
        return f"SAE({about.variant}{at}, D={about.width}, N={about.n_latents}{k})"

    def pre_activations(self, x: Tensor) -> Tensor:
        """p, [..., N], of x [..., D].

        Raises:
            WidthMismatch: x does not have the SAE's width.
        """
        check_width(self.info.width, x.shape[-1], f"the SAE for {self.info.hookpoint or 'an unnamed hookpoint'}")
        return (x - self.b_dec) @ self.W_enc.T + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """f at inference, [..., N], of x [..., D]; each row depends on itself alone."""
        pre = self.pre_activations(x)
        return activate(pre, self.info.activation, k=self.info.k, threshold=self.threshold, x_bar=x - self.b_dec)

    def decode(self, latents: Tensor) -> Tensor:
        """x_hat, [..., D] of f [..., N]."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def save(self, folder: Path | str) -> None:
        """Write `sae.safetensors` (float32) and `cfg.json`."""
        import json

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.float() for name, value in self.state_dict().items()}
        save_tensors(folder / "sae.safetensors", tensors, asdict(self.info))
        (folder / "cfg.json").write_text(json.dumps(asdict(self.info), indent=2, sort_keys=True) + "\n")

    @classmethod
    def of(cls, info: SAEInfo, tensors: dict[str, Tensor]) -> "SAE":
        """An SAE made of given tensors, keyed by attribute name; its parameters are frozen.

        Raises:
            RuntimeError: a tensor is missing, or its shape differs from what `info` says.
        """
        sae = cls(info, seed=None)
        sae.load_state_dict(tensors)
        return sae.requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | str, device: str | torch.device = "cpu") -> "SAE":
        """Read what `save` wrote.

        Raises:
            BadWeights: the file is damaged, or its tensors do not fit its configuration.
        """
        tensors, metadata = load_tensors(Path(folder) / "sae.safetensors")
        return cls.from_tensors(tensors, metadata, str(folder)).to(device)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], metadata: dict[str, Any], source: str) -> "SAE":
        """Build an SAE from named tensors and the fields of `SAEInfo`; `source` names them in messages.

        Raises:
            BadWeights: the fields describe no SAE, or the tensors do not fit them.
        """
        try:
            if not isinstance(metadata, dict):
                raise ValueError(f"its fields are {reprlib.repr(metadata)}; expected an object")
            # Files of version 0.1 have no activation: the variant implies it.
            native = "topk" if metadata.get("variant") == "topk" else "threshold"
            info = SAEInfo(**{"activation": native, **metadata})
            info.check()
            _check_shapes(info, tensors)
            return cls.of(info, {**tensors, "threshold": tensors["threshold"].expand(info.n_latents)})
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadWeights(f"{source} does not hold an SAE of this project: {str(error).splitlines()[0]}") from error


def unit_rows(info: SAEInfo, seed: int) -> Tensor:
    """Random unit rows (N, D), the same for every device: always drawn on the CPU."""
    chance = generator(seed, "sae", info.n_latents, info.width)
    rows = torch.randn(info.n_latents, info.width, generator=chance, device="cpu")
    return rows.div_(rows.norm(dim=1, keepdim=True))


def _check_shapes(info: SAEInfo, tensors: dict[str, Tensor]) -> None:
    """Raise `ValueError` unless the tensors fit `info`. Runs before memory is allocated for what a file claims."""
    n, width = info.n_latents, info.width
    shapes = {"W_enc": (n, width), "W_dec": (n, width), "b_enc": (n,), "b_dec": (width,), "threshold": (n,)}
    if unknown := sorted(tensors.keys() - shapes.keys()):
        raise ValueError(f"an unknown tensor {reprlib.repr(unknown[0])}; expected {', '.join(shapes)}")
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"no tensor {name}; expected {', '.join(shapes)}")
        found = tuple(tensors[name].shape)
        # Files of version 0.1 have one threshold for all latents.
        if found != shape and not (name == "threshold" and found in ((), (1,))):
            raise ValueError(f"{name} of shape {list(found)}; expected {list(shape)}")


def check_width(expected: int, found: int, what: str) -> None:
    """Raise `WidthMismatch` unless the widths agree."""
    if expected != found:
        raise WidthMismatch(
            f"{what} expects activations of width {expected}, the hookpoint gives {found}; "
            "attach it where it was trained, or train one for this hookpoint."
        )
