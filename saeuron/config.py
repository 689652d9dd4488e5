"""One frozen configuration per stage; `RunConfig` holds them all and is what a YAML file says.

Unknown keys are refused. A stage's configuration enters its artifacts' ids, so it holds what changes results and
nothing else: devices and folders are arguments, and where steps run (`RunnerConfig`) belongs to no stage.
"""

import itertools
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saeuron.errors import ConfigError

Split = Literal["train", "validation", "test"]
Half = Literal["conditional", "unconditional", "both"]


class Config(BaseModel):
    """Base of all configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Config):
    """Which diffusion model, and how it is sampled."""

    spec: str = "canvas"
    """`canvas` (ships with the project), a local folder, or a hub id."""
    steps: int = Field(12, ge=1, le=1000)
    """Denoising steps of every generation (DDIM)."""
    guidance: float = Field(2.5, ge=0)
    """Classifier-free guidance scale; 1 or less turns it off."""
    micro_batch: int = Field(32, ge=1)
    """Images per forward pass. Noise does not depend on it, rounding does (UNet fp32: 2e-6), so it is recorded."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the model."""


class DomainConfig(Config):
    """One family of concepts: styles, objects, ..."""

    concepts: tuple[str, ...] = Field(min_length=1)
    """Names, as they stand in prompts. Each is scored against the others of its domain."""
    hookpoints: tuple[str, ...] = Field(min_length=1)
    """Where this family is edited: dotted module paths in the pipeline, one SAE each."""
    score_on: Literal["crossed", "plain"] = "crossed"
    """Scoring prompts: `crossed` pairs a concept with every concept of the other domains (the paper's choice for
    styles), `plain` uses prompts that name nothing else (its choice for objects)."""
    n: tuple[int, ...] | None = None
    """Latents to try for this family, in place of `tune.n`."""
    gamma: tuple[float, ...] | None = None
    """Multipliers to try for this family, in place of `tune.gamma`: gamma scales with the latents' means, which differ
    from hookpoint to hookpoint."""
    judge: str = "canvas"
    """Who recognises this family in images: `canvas`, or `none` (metrics are then null)."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = sorted({c for c in self.concepts if self.concepts.count(c) > 1})
        if twice:
            raise ValueError(f"concepts named twice: {', '.join(twice)}; name each once")
        return self


class PromptsConfig(Config):
    """Where prompts come from."""

    templates: dict[Split, tuple[str, ...]] = {}
    """Sentences with `{domain}` placeholders; each is filled with every combination of the concepts it names."""
    files: tuple[str, ...] = ()
    """CSV, JSONL, Parquet or text files with more prompts (columns: text, split, and one per domain)."""


class CaptureConfig(Config):
    """Activations for training SAEs."""

    prompts_per_cell: int = Field(1, ge=1)
    """Training prompts of each combination of concepts, chosen by `seed`."""
    plain_prompts: int = Field(4, ge=0)
    """Training prompts of each concept that is asked for alone."""
    every: int = Field(1, ge=1)
    """Keep every n-th denoising step."""
    half: Half = "conditional"
    """Which half of the classifier-free guidance batch is read."""
    read: Literal["output", "update"] = "output"
    """The module's output, or its output minus its input."""
    positions: int | None = Field(None, ge=1)
    """Spatial positions kept of each image, a seeded sample, the same at every step; None keeps all."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """How activations are stored."""
    seed: int = 0
    """Seed of noise, prompts and positions."""
    shard_images: int = Field(128, ge=1)
    """Images per shard, the unit of work."""


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
    """How latents are made sparse: a name of `saeuron.variants`."""
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
    """What does the sparse work: torch's operators, or kernels in Triton, which are for CUDA; `auto` chooses by device.
    Results are the same to rounding."""
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
    """Steps between checkpoints; more of them where to write one takes as long as a twentieth of the training since
    the last."""
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


class ScoreConfig(Config):
    """Statistics of each latent on the prompts of each concept."""

    images: int = Field(40, ge=1)
    """Images per concept, spread evenly over its scoring prompts."""
    images_per_prompt: int | None = Field(None, ge=1)
    """If given, this many images of every scoring prompt in place of `images` in all: then prompts that are added to a
    concept add images, and take none away."""
    every: int = Field(1, ge=1)
    """Read every n-th denoising step."""
    half: Half = "conditional"
    """Which half is read."""
    seed: int = 1
    """Seed of noise and of the choice of prompts."""


class TuneConfig(Config):
    """The search for each concept's removal, on validation prompts."""

    n: tuple[int, ...] = (8, 16, 32)
    """Latents ablated at each step."""
    gamma: tuple[float, ...] = (-1.0, -2.0, -4.0)
    """Negative multipliers (the factor is gamma times the latent's mean on the concept)."""
    half: Half = "both"
    """Which half is edited."""
    target_images: int = Field(24, ge=1)
    """Validation images asked to show the concept."""
    retained_images: int = Field(48, ge=1)
    """Validation images asked to show other concepts of the domain: a seeded, stratified sample of fixed size, so
    the cost does not grow with the number of concepts."""
    concepts: tuple[str, ...] | None = None
    """Which concepts get a removal; None: all."""
    seed: int = 2
    """Seed of noise and of the choice of prompts."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.n or not self.gamma:
            raise ValueError("tune.n and tune.gamma need at least one value each")
        if min(self.n) < 1:
            raise ValueError(f"tune.n holds {min(self.n)}; a removal ablates at least 1 latent")
        if max(self.gamma) >= 0:
            raise ValueError(f"tune.gamma holds {max(self.gamma):g}; a multiplier of an ablated latent is negative")
        return self


class EvaluateConfig(Config):
    """Figures of each removal, on test prompts."""

    seeds: int = Field(5, ge=1)
    """Images per test prompt."""
    seed: int = 3
    """Seed of noise and of the choice of prompts."""
    retained_cells: int | None = Field(None, ge=1)
    """At most this many (concept, concept) cells of the retained set, a seeded, stratified sample; None: all. Above 50
    concepts a sample is the sensible choice."""
    shard_images: int = Field(128, ge=1)
    """Images per shard, the unit of work."""


class ConceptConfig(Config):
    """A concept that is added to a workspace later: what `saeuron concept add` reads."""

    name: str = Field(min_length=1)
    """As it stands in prompts."""
    domain: str
    """The family it joins."""
    templates: dict[Split, tuple[str, ...]] | None = None
    """Sentences with `{domain}` placeholders; None: those of the run."""


class RunnerConfig(Config):
    """Where the steps of a run run. Enters no identity: the results are the same, byte for byte, at the same threads
    per worker, micro-batch and kind of device.
    """

    kind: Literal["threads", "processes", "dask", "ray"] = "threads"
    """`threads`: one step after another in the run's own process, for the loaded model serves one step at a time.
    `processes`: several on this machine. `dask`, `ray`: the same by these libraries (extras of the package), here or
    at `address`."""
    workers: int | None = Field(None, ge=1)
    """Processes, each with a model of its own; None: one per device, or as many as the cores hold at `threads`. At an
    address: how many the cluster has."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; None: as many as the run is told. Results depend on it by rounding."""
    address: str | None = None
    """A running cluster: `tcp://HOST:8786` (dask), `ray://HOST:10001` (ray). Its workers must see the workspace under
    the same path, as a shared folder, and PREFECT_API_URL under the same address."""
    devices: tuple[str, ...] | None = None
    """Each worker claims one of these for itself until it ends; None: all of the run's kind that its machine has, none
    on CPU."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`runner: processes` is `runner: {kind: processes}`."""
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "threads":
            if (self.workers or 1) > 1:
                raise ValueError(
                    f"runner.workers is {self.workers}, but threads of one process share its model and so run one "
                    "step at a time; take kind: processes"
                )
            if self.devices:
                raise ValueError("runner.devices is for workers; without them, give the run's own --device")
        if self.address and self.kind not in ("dask", "ray"):
            raise ValueError(f"runner.address is of a cluster, but runner.kind is {self.kind!r}; take dask or ray")
        if self.devices is not None and len(set(self.devices)) < max(self.workers or 1, len(self.devices)):
            raise ValueError(
                f"runner.devices names {len(set(self.devices))} devices for "
                f"{max(self.workers or 1, len(self.devices))} workers; each worker needs one of its own"
            )
        return self


class RunConfig(Config):
    """A whole run: what one YAML file says."""

    model: ModelConfig = ModelConfig()
    domains: dict[str, DomainConfig] = Field(min_length=1)
    prompts: PromptsConfig = PromptsConfig()
    capture: CaptureConfig = CaptureConfig()
    train: SAEConfig = SAEConfig()
    score: ScoreConfig = ScoreConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    saes: dict[str, str] = {}
    """{hookpoint: SAE of the workspace, by its id or the beginning of it}: taken there in place of one that is trained,
    such as one that `saeuron sae import` brought."""
    runner: RunnerConfig = RunnerConfig()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        owner: dict[str, str] = {}
        for domain, config in self.domains.items():
            for concept in config.concepts:
                if concept in owner:
                    raise ValueError(
                        f"concept {concept!r} stands in two domains ({owner[concept]}, {domain}); keep one"
                    )
                owner[concept] = domain
        for hookpoint in self.saes:
            if hookpoint not in self.hookpoints:
                raise ValueError(
                    f"saes names {hookpoint!r}, which no domain has; expected {', '.join(self.hookpoints)}"
                )
        for stage in ("capture", "score", "tune"):
            if getattr(self, stage).half == "unconditional" and self.model.guidance <= 1:
                raise ValueError(
                    f"{stage}.half is 'unconditional', but model.guidance {self.model.guidance} has no such half; "
                    "take 'conditional', or a guidance above 1"
                )
        return self

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of every domain, once, in order."""
        return tuple(dict.fromkeys(h for d in self.domains.values() for h in d.hookpoints))

    def domain_of(self, concept: str) -> str | None:
        """The domain that `concept` belongs to, if any."""
        return next((d for d, config in self.domains.items() if concept in config.concepts), None)
