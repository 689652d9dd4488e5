"""The configuration of a sparse autoencoder and its training: `train` in a run's file."""

import itertools
import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from saeuron.errors import ConfigError


class Config(BaseModel):
    """Base of all configurations: frozen, unknown keys refused, and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TopKOptions(Config):
    """Options of the variant `topk`."""

    multi: float = Field(0.0, ge=0)
    """Weight of a second loss with 4k latents (Multi-TopK, 2406.04093 section 3.3; the paper uses 1/8)."""


class JumpReLUOptions(Config):
    """Options of the variant `jumprelu`."""

    weight: float = Field(10.0, ge=0)
    """Weight of (L0 / k - 1)^2, in units of FVU."""
    bandwidth: float = Field(0.5, gt=0)
    """Width eps of the kernel of the straight-through gradients, in standard deviations of p over the first sample.
    The paper's 0.001, for activations of unit mean square, is about 0.05 here; smaller kernels need more rows."""
    speed: float = Field(20.0, gt=0)
    """Learning-rate multiplier of log theta. A long run needs less."""


class TopAFAOptions(Config):
    """Options of the variant `top_afa` (2503.24277)."""

    weight: float = Field(1 / 16, ge=0)
    """Weight of the term that pulls |f| to the input's norm; the scale is the paper's (squared error per number)."""


class MutualChoiceOptions(Config):
    """Options of the variant `mutual_choice` (2411.02124)."""

    exponent: float = Field(1.0, ge=0)
    """s in the expected density of the latent of rank r, r^-s (1 is Zipf's law)."""
    share: float = Field(0.5, ge=0, le=1)
    """A latent is under-used when its density is below this share of its expected density."""


class FeatureChoiceOptions(Config):
    """Options of the variant `feature_choice` (2411.02124)."""

    exponent: float = Field(1.0, ge=0)
    """s in m_r ~ r^-s, the rows of a batch that the r-th latent takes: 0 is uniform, 1 is Zipf's law."""
    share: float = Field(0.1, ge=0, le=1)
    """A latent is under-used when it is positive on less than this share of its rows."""


class VSAEOptions(Config):
    """Options of the variant `vsae` (2509.22994)."""

    variance: Literal["fixed", "learned"] = "fixed"
    """Variance of the posterior: one number, or a linear function of the input for each latent."""
    sigma: float = Field(0.1, gt=0)
    """Standard deviation of the noise (its start, if learned), in units of the prior's."""
    weight: float = Field(0.01, ge=0)
    """Weight of the KL divergence (mean over rows and latents), added to the FVU."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Fraction of the steps in which that weight rises linearly from zero."""


class RASAEOptions(Config):
    """Options of the variant `ra_sae` (2502.12892)."""

    candidates: int = Field(1024, ge=1)
    """Number of candidate points, at most; they are rows of the first batch."""
    delta: float = Field(0.1, ge=0)
    """Largest distance of an atom from the convex hull of the candidates, in units of their mean length."""
    speed: float = Field(30.0, gt=0)
    """Learning-rate multiplier of the logits of the mixing weights."""


class MatryoshkaOptions(Config):
    """Options of the variant `matryoshka`."""

    fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Nested widths, as fractions of N (2503.17547 has five, each twice the previous one)."""

    @model_validator(mode="after")
    def _nested(self) -> Self:
        f = self.fractions
        if not f or f[0] <= 0 or f[-1] != 1 or any(b <= a for a, b in itertools.pairwise(f)):
            raise ValueError(
                f"train.matryoshka.fractions is {list(f)}; expected rising fractions above 0 that end with 1"
            )
        return self


class AssignedOptions(Config):
    """Options of the variant `assigned` (in the manner of SAEmnesia, 2509.21379)."""

    weight: float = Field(0.1, ge=0)
    """Weight of the cross-entropy of the assigned latents, added to the FVU."""


class ContrastiveOptions(Config):
    """Options of the variant `contrastive` (in the manner of SAEParate, 2605.12122)."""

    weight: float = Field(0.01, ge=0)
    """Weight of the contrastive term, added to the FVU (the paper's code has 0.01 to 1; 0.1 costs much FVU here)."""
    temperature: float = Field(0.07, gt=0)
    """Temperature: cosines are divided by it before the softmax."""
    rows: int = Field(512, ge=2)
    """Rows of each batch whose codes are compared, at most."""


class GatedOptions(Config):
    """Options of the variant `gated`."""

    weight: float = Field(0.05, ge=0)
    """lambda, the weight of the L1 norm of the gates; its start, if it is adapted."""
    adapt: float = Field(0.02, ge=0)
    """Speed at which lambda moves towards L0 = k, in log units per step; 0 keeps lambda fixed, as in the paper."""


class GBAOptions(Config):
    """Options of the variant `gba`."""

    groups: int = Field(10, ge=1)
    """Groups of latents, equal in size, each with a target frequency (2506.14002 takes 10 or more)."""
    span: float = Field(100.0, ge=1)
    """Highest target frequency divided by the lowest; unused with one group."""
    window: int = Field(5, ge=1)
    """Steps between changes of the biases, over which firings are counted (the paper's 50 is for long runs)."""
    rate: float = Field(0.1, gt=0)
    """Largest change of a bias, in units of the mean peak of p in its group (the paper's gamma, 0.01 there)."""


_DIVISIBLE = ("topk", "batch_topk")
LABELLED = ("assigned", "contrastive")
"""Variants that learn from the concepts that images ask for."""

Dictionary = Literal["trained", "untrained", "frozen"]
"""The parts of an SAE that are learned, see `SAEConfig.dictionary`."""
CALIBRATION = 20
"""Batches from which an untrained SAE takes its thresholds."""
_UPDATES = frozenset({"lr", "warmup", "schedule", "clip", "auxk_alpha", "dead_rows"})
"""Settings of the updates, which an untrained SAE does not have."""


TRAJECTORIES = {"images": 8, "batches": 4}
"""Images mixed with each other in the order `trajectories`: this many, or enough to fill that many batches, whichever
is more."""


class SAEConfig(Config):
    """A sparse autoencoder and its training: SAeUron (2501.18052), TopK (2406.04093), BatchTopK (2412.06410)."""

    variant: Literal[
        "topk",
        "batch_topk",
        "jumprelu",
        "top_afa",
        "mutual_choice",
        "feature_choice",
        "vsae",
        "ra_sae",
        "matryoshka",
        "abs_topk",
        "gated",
        "gba",
        "assigned",
        "contrastive",
    ] = "batch_topk"
    """Variant of the SAE: a name of `saeuron.sae.variants`."""
    inference: Literal["native", "threshold"] = "native"
    """Activation of the trained SAE. `native`: its variant's. `threshold`: the threshold tracked in training, so that
    any subset of latents can be computed alone and a removal is a file of a few rows."""
    dictionary: Dictionary = "trained"
    """Parts that are learned; the last two are controls for claims about the first. `trained`: all. `frozen`: all but
    the decoder, which stays as it was drawn. `untrained`: nothing; the decoder and the encoder, its transpose, stay as
    they were drawn, b_dec is that of the first sample, and thresholds are tracked so that k keeps its meaning."""
    expansion: int | float = 8
    """Latents per input dimension: N = expansion * D, rounded down; below 1 there are fewer latents than dimensions."""
    k: int = Field(32, ge=1)
    """Active latents per row, exact or on average, by variant."""
    batch: int = Field(2048, ge=1)
    """Rows per step."""
    steps: int = Field(700, ge=1)
    """Optimizer steps."""
    order: Literal["mixed", "trajectories"] = "mixed"
    """Order of the rows. `mixed`: shuffled over prompts, steps and positions in large pools.
    `trajectories` (FAST's sequential order, 2506.07691, for diffusion): image by image, with all steps and positions of
    an image together; eight images (or enough to fill four batches) are mixed, used up, and followed by the next."""
    processes: int = Field(1, ge=1)
    """Processes that train together (on CUDA, one per device)."""
    share: Literal["rows", "latents"] = "rows"
    """Work that processes share: the rows of every batch (data parallelism), or the latents, for an SAE that does not
    fit into one device (variants `topk` and `batch_topk` only)."""
    normalize: bool = False
    """Train on rows scaled so that their mean distance from b_dec is sqrt(D) at the start. Without it the learning rate
    has to suit the size of the activations. The trained SAE takes and returns unscaled activations."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder's product, by which latents are chosen. With Triton kernels also of the weights that
    gathers read. The weights themselves, moments and sums are float32."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """Implementation of the sparse work: torch's operators, or Triton kernels (CUDA only). `auto` means torch on every
    device, until the Triton kernels have been timed on a GPU. Results are the same up to rounding."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate (Adam; the paper's 4e-4 is for N = 20480)."""
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the learning rate to zero after the warm-up."""
    clip: float = Field(1.0, gt=0)
    """Gradient norm is clipped to this."""
    auxk_alpha: float = Field(1 / 32, ge=0)
    """Weight of the AuxK loss, which revives dead latents (2406.04093, appendix A.2)."""
    dead_rows: int | None = Field(None, ge=1)
    """A latent is dead after this many silent rows. None: a tenth of the training rows (the paper's 10M would never be
    reached in a small run)."""
    seed: int = 0
    """Seed of the weights, the data order and every other random draw."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; more if writing them would take over a twentieth of the time."""
    topk: TopKOptions = TopKOptions()
    """Options of `topk`; other variants ignore them."""
    gba: GBAOptions = GBAOptions()
    """Options of `gba`; other variants ignore them."""
    gated: GatedOptions = GatedOptions()
    """Options of `gated`; other variants ignore them."""
    matryoshka: MatryoshkaOptions = MatryoshkaOptions()
    """Options of `matryoshka`; other variants ignore them."""
    jumprelu: JumpReLUOptions = JumpReLUOptions()
    """Options of `jumprelu`; other variants ignore them."""
    top_afa: TopAFAOptions = TopAFAOptions()
    """Options of `top_afa`; other variants ignore them."""
    mutual_choice: MutualChoiceOptions = MutualChoiceOptions()
    """Options of `mutual_choice`; other variants ignore them."""
    feature_choice: FeatureChoiceOptions = FeatureChoiceOptions()
    """Options of `feature_choice`; other variants ignore them."""
    vsae: VSAEOptions = VSAEOptions()
    """Options of `vsae`; other variants ignore them."""
    ra_sae: RASAEOptions = RASAEOptions()
    """Options of `ra_sae`; other variants ignore them."""
    assigned: AssignedOptions = AssignedOptions()
    """Options of `assigned`; other variants ignore them."""
    contrastive: ContrastiveOptions = ContrastiveOptions()
    """Options of `contrastive`; other variants ignore them."""

    @property
    def needs_labels(self) -> bool:
        """Whether the variant learns from the concepts that the images of its rows ask for."""
        return self.variant in LABELLED

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the trained SAE depends on.

        Left out: options of other variants, the checkpoint interval and the kernels. Settings whose computation has
        changed get an extra entry, so that the ids of all others stay the same.
        """
        fields = self.model_dump(mode="json")
        options = {name for name, value in self if isinstance(value, Config)}
        without = {"checkpoint_every", "kernels", *(options - {self.variant})}
        if self.processes == 1 or self.share == "rows":
            without.add("share")
        if not self.normalize:
            without.add("normalize")
        if self.dictionary == "trained":
            without.add("dictionary")
        if self.dictionary == "untrained":
            without |= _UPDATES
        found = {k: v for k, v in fields.items() if k not in without}
        if self.order == "trajectories":
            found["pools"] = TRAJECTORIES
        if self.processes > 1 and self.share == "rows":
            found["variance"] = "of all rows"
        return found

    def learning(self, dictionary: Dictionary) -> Self:
        """The same SAE with another dictionary; an untrained one takes only as many steps as its thresholds need."""
        if dictionary == self.dictionary:
            return self
        steps = CALIBRATION if dictionary == "untrained" else self.steps
        return self.model_copy(update={"dictionary": dictionary, "steps": steps})

    def latents(self, width: int) -> int:
        """N, the number of latents of an SAE of D = `width`."""
        return max(1, int(self.expansion * width))

    def check(self, width: int, hookpoint: str = "", concepts: int = 0) -> int:
        """N, the number of latents of an SAE at a hookpoint of D = `width`, whose rows have labels of some `concepts`.

        Raises:
            ConfigError: these settings do not fit such an SAE.
        """
        latents, at = self.latents(width), f" at {hookpoint}" if hookpoint else ""
        if self.k > latents:
            raise ConfigError(
                f"train.k is {self.k}, but an SAE{at} has {latents} latents ({self.expansion} x {width}); "
                "lower train.k or raise train.expansion."
            )
        if self.variant == "assigned" and concepts > latents:
            raise ConfigError(
                f"train.variant is 'assigned' and {concepts} concepts are asked for, but an SAE{at} has {latents} "
                f"latents ({self.expansion} x {width}): expected one for each concept; raise train.expansion."
            )
        if self.share == "latents" and latents % self.processes:
            raise ConfigError(
                f"train.expansion * D is {latents}{at}: expected a multiple of train.processes, {self.processes}, "
                "because each process holds an equal part of the latents."
            )
        pairs = self.k * self.batch // self.processes
        if self.variant == "feature_choice" and pairs < latents:
            raise ConfigError(
                f"train.k * train.batch is {pairs} in each process: expected at least the {latents} latents{at}, "
                "because feature_choice gives each latent a row; raise train.batch or train.k."
            )
        return latents

    @field_validator("expansion", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> int | float:
        """4.0 is 4, so that an SAE has one id."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError("expected a number above 0")
        return int(value) if value == int(value) else value

    @model_validator(mode="after")
    def _shared_out(self) -> Self:
        if self.share == "rows" and self.batch % self.processes:
            raise ValueError(
                f"train.batch is {self.batch}; expected a multiple of train.processes, {self.processes}, because each "
                "process takes an equal part of its rows"
            )
        if self.share == "latents" and self.variant not in _DIVISIBLE:
            raise ValueError(
                f"train.share is 'latents', but train.variant is {self.variant!r}; expected one of "
                f"{', '.join(_DIVISIBLE)}, or share: rows"
            )
        return self


class ThresholdsConfig(Config):
    """Thresholds for SAEs that `saes` gives and that keep the k largest latents of each row.

    With these, a removal computes its own latents alone, not all N (`saeuron/sae/thresholds.py`).
    """

    images: int = Field(0, ge=0)
    """Images of training prompts that thresholds are taken from, a few hundred; 0: such SAEs are used as they are."""
    rows: int = Field(65536, ge=1)
    """Rows of these images, about as many of each image and step."""
    seed: int = 4
    """Seed of noise and of the choice of prompts and rows."""
