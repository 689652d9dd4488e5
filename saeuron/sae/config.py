"""The configuration of a sparse autoencoder and of its training: `train` in a run's file."""

import itertools
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from saeuron.errors import ConfigError
from saeuron.schema import Config


class TopKOptions(Config):
    """Options of the variant `topk`."""

    multi: float = Field(0.0, ge=0)
    """Weight of a second loss with 4 k latents (Multi-TopK, 2406.04093 section 3.3; there 1/8)."""


class JumpReLUOptions(Config):
    """Options of the variant `jumprelu`."""

    weight: float = Field(10.0, ge=0)
    """Weight of (L0 / k - 1)^2, in units of FVU."""
    bandwidth: float = Field(0.5, gt=0)
    """Width of the kernel of the straight-through gradients, in standard deviations of p over the first sample (the
    paper's 0.001, of activations of unit mean square, is about 0.05; smaller kernels need more rows)."""
    speed: float = Field(20.0, gt=0)
    """Steps of log theta in units of the learning rate, which the other parameters move by. A long run needs less."""


class TopAFAOptions(Config):
    """Options of the variant `top_afa` (2503.24277)."""

    weight: float = Field(1 / 16, ge=0)
    """Of the term that makes |f| the input's norm, beside a squared error per row and number, as in the paper."""


class MutualChoiceOptions(Config):
    """Options of the variant `mutual_choice` (2411.02124)."""

    exponent: float = Field(1.0, ge=0)
    """s of the densities that are expected of latents, by rank r: r^-s (1 is Zipf's law)."""
    share: float = Field(0.5, ge=0, le=1)
    """A latent whose density is below this share of what is expected of it is under-used."""


class FeatureChoiceOptions(Config):
    """Options of the variant `feature_choice` (2411.02124)."""

    exponent: float = Field(1.0, ge=0)
    """s of the rows that the r-th latent takes of a batch, m_r as r^-s: 0 is uniform, 1 is Zipf's law."""
    share: float = Field(0.1, ge=0, le=1)
    """A latent that is positive on less than this share of its rows is under-used."""


class VSAEOptions(Config):
    """Options of the variant `vsae` (2509.22994)."""

    variance: Literal["fixed", "learned"] = "fixed"
    """Of the posterior: one number, or a linear function of the input for each latent."""
    sigma: float = Field(0.1, gt=0)
    """Standard deviation of the noise (where it starts, if learned), in units of the prior's."""
    weight: float = Field(0.01, ge=0)
    """Of the KL divergence, mean over rows and latents, beside the FVU."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which that weight rises linearly from zero."""


class RASAEOptions(Config):
    """Options of the variant `ra_sae` (2502.12892)."""

    candidates: int = Field(1024, ge=1)
    """Candidate points, at most: they are rows of the first batch."""
    delta: float = Field(0.1, ge=0)
    """How far an atom may lie from the convex hull of the candidates, in units of their mean length."""
    speed: float = Field(30.0, gt=0)
    """Steps of the logits of the mixing weights, relative to those of other parameters."""


class MatryoshkaOptions(Config):
    """Options of the variant `matryoshka`."""

    fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Nested widths, as fractions of N (2503.17547 has five, each twice the one before)."""

    @model_validator(mode="after")
    def _nested(self) -> Self:
        f = self.fractions
        if not f or f[0] <= 0 or f[-1] != 1 or any(b <= a for a, b in itertools.pairwise(f)):
            raise ValueError(
                f"train.matryoshka.fractions is {list(f)}; expected rising fractions above 0 that end with 1"
            )
        return self


class GatedOptions(Config):
    """Options of the variant `gated`."""

    weight: float = Field(0.05, ge=0)
    """Lambda, the weight of the L1 norm of the gates; to begin with, if it is adapted."""
    adapt: float = Field(0.02, ge=0)
    """How fast lambda turns towards L0 = k, in log units per step; 0 is the paper's fixed lambda."""


class GBAOptions(Config):
    """Options of the variant `gba`."""

    groups: int = Field(10, ge=1)
    """Groups of latents, of equal size, with a target frequency each (2506.14002 takes 10 or more)."""
    span: float = Field(100.0, ge=1)
    """The highest target frequency over the lowest; with one group it means nothing."""
    window: int = Field(5, ge=1)
    """Steps between changes of the biases, over which firings are counted (the paper's 50 is for long runs)."""
    rate: float = Field(0.1, gt=0)
    """Largest change of a bias, in units of the mean peak of p in its group (the paper's gamma, there 0.01)."""


_DIVISIBLE = ("topk", "batch_topk")


TRAJECTORIES = {"images": 8, "batches": 4}
"""Images that are mixed with each other in the order `trajectories`, or as many as fill so many batches, whichever are
more."""


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
    ] = "batch_topk"
    """How latents are made sparse: a name of `saeuron.sae.variants`."""
    inference: Literal["native", "threshold"] = "native"
    """What the trained SAE does: what its variant does, or compare with the threshold that training followed, so that
    any subset of latents can be computed alone and a removal is a file of a few rows."""
    expansion: int = Field(8, ge=1)
    """Latents per input dimension: N = expansion * D."""
    k: int = Field(32, ge=1)
    """Active latents per row, exactly or on average."""
    batch: int = Field(2048, ge=1)
    """Rows per step."""
    steps: int = Field(700, ge=1)
    """Optimizer steps."""
    order: Literal["mixed", "trajectories"] = "mixed"
    """Order of the rows. `mixed`: over prompts, steps and positions in large pools, drawn from everywhere.
    `trajectories` (FAST's sequential order, 2506.07691, for diffusion): image by image, every step and position of one
    together; eight images (or as many as fill four batches) are mixed with each other, used up, and followed by the
    next."""
    processes: int = Field(1, ge=1)
    """Processes that train together (on CUDA one per device)."""
    share: Literal["rows", "latents"] = "rows"
    """What the processes share out: the rows of every batch (data parallelism), or the latents, for an SAE that does
    not fit into one device (of the variants `topk` and `batch_topk`)."""
    normalize: bool = False
    """Train on rows scaled so that their mean distance from b_dec is sqrt(D) at the start. Without it the learning rate
    has to suit the size of activations. The SAE that comes of it takes and gives activations as they are."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder's product, by which latents are chosen, and, with kernels in Triton, of what gathers read of the
    weights; the weights themselves, moments and sums are float32."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """What does the sparse work: torch's operators, or kernels in Triton, which are for CUDA. `auto` is torch's on
    every device, until those in Triton have been timed on a GPU. Results are the same to rounding."""
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
    """A latent is dead when silent for this many rows; None: a tenth of the training rows (the paper's 10M would
    never be reached in a small run)."""
    seed: int = 0
    """Seed of the weights, of the data order and of whatever else is drawn."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; more of them where to write one would take over a twentieth of the time."""
    topk: TopKOptions = TopKOptions()
    """Of the variant `topk`, and of no account to others."""
    gba: GBAOptions = GBAOptions()
    """Of the variant `gba`, and of no account to others."""
    gated: GatedOptions = GatedOptions()
    """Of the variant `gated`, and of no account to others."""
    matryoshka: MatryoshkaOptions = MatryoshkaOptions()
    """Of the variant `matryoshka`, and of no account to others."""
    jumprelu: JumpReLUOptions = JumpReLUOptions()
    """Of the variant `jumprelu`, and of no account to others."""
    top_afa: TopAFAOptions = TopAFAOptions()
    """Of the variant `top_afa`, and of no account to others."""
    mutual_choice: MutualChoiceOptions = MutualChoiceOptions()
    """Of the variant `mutual_choice`, and of no account to others."""
    feature_choice: FeatureChoiceOptions = FeatureChoiceOptions()
    """Of the variant `feature_choice`, and of no account to others."""
    vsae: VSAEOptions = VSAEOptions()
    """Of the variant `vsae`, and of no account to others."""
    ra_sae: RASAEOptions = RASAEOptions()
    """Of the variant `ra_sae`, and of no account to others."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the trained SAE depends on: not the options of other variants, nor how often it is checkpointed, nor by
        what kernels it is trained.

        What was once computed otherwise has an entry that says so, which leaves all others as they are.
        """
        fields = self.model_dump(mode="json")
        options = {name for name, value in self if isinstance(value, Config)}
        without = {"checkpoint_every", "kernels", *(options - {self.variant})}
        if self.processes == 1 or self.share == "rows":
            without.add("share")
        if not self.normalize:
            without.add("normalize")
        found = {k: v for k, v in fields.items() if k not in without}
        if self.order == "trajectories":
            found["pools"] = TRAJECTORIES
        if self.processes > 1 and self.share == "rows":
            found["variance"] = "of all rows"
        return found

    def check(self, width: int, hookpoint: str = "") -> int:
        """N, the latents of an SAE at a hookpoint of D = `width`.

        Raises:
            ConfigError: these settings fit no such SAE.
        """
        latents, at = self.expansion * width, f" at {hookpoint}" if hookpoint else ""
        if self.k > latents:
            raise ConfigError(
                f"train.k is {self.k}, but an SAE{at} has {latents} latents ({self.expansion} x {width}); "
                "lower train.k or raise train.expansion."
            )
        if self.share == "latents" and latents % self.processes:
            raise ConfigError(
                f"train.expansion * D is {latents}{at}: expected a multiple of train.processes, {self.processes}, "
                "which share out the latents."
            )
        pairs = self.k * self.batch // self.processes
        if self.variant == "feature_choice" and pairs < latents:
            raise ConfigError(
                f"train.k * train.batch is {pairs} in each process: expected at least the {latents} latents{at}, of "
                "which feature_choice gives each a row; raise train.batch or train.k."
            )
        return latents

    @model_validator(mode="after")
    def _shared_out(self) -> Self:
        if self.share == "rows" and self.batch % self.processes:
            raise ValueError(
                f"train.batch is {self.batch}; expected a multiple of train.processes, {self.processes}, which share "
                "out its rows"
            )
        if self.share == "latents" and self.variant not in _DIVISIBLE:
            raise ValueError(
                f"train.share is 'latents', but train.variant is {self.variant!r}; expected one of "
                f"{', '.join(_DIVISIBLE)}, or share: rows"
            )
        return self
