"""One frozen configuration per stage; `RunConfig` holds them all and mirrors the YAML file.

Unknown keys are refused. A stage's configuration enters its artifacts' ids, so it holds only what changes results.
Devices and folders are arguments, and `RunnerConfig`, where tasks run, belongs to no stage.
"""

from collections.abc import Hashable, Iterable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from saeuron.sae.config import Config, SAEConfig, ThresholdsConfig

Split = Literal["train", "validation", "test"]
Half = Literal["conditional", "unconditional", "both"]
Key = TypeVar("Key", bound=Hashable)


def in_text(hookpoint: str) -> bool:
    """Whether a module, by its dotted path, lies in a text encoder."""
    return hookpoint.startswith("text_encoder")


def twice(keys: Iterable[Key]) -> Key | None:
    """The first key that was there before; None if all differ."""
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def _name(value: str) -> str:
    if not value or value != value.strip():
        raise ValueError("expected a name without blanks around it")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A concept's name: any text without blanks around it."""


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Labels = Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1)]
"""One text, or several."""


class ModelConfig(Config):
    """The diffusion model, and how it is sampled."""

    spec: str = "canvas"
    """`canvas` or `canvas20` (both ship with the project), a local folder, or a hub id."""
    steps: int = Field(12, ge=1, le=1000)
    """Denoising steps of every generation."""
    scheduler: str | None = None
    """Class name of a diffusers scheduler, such as `DDIMScheduler`; None: the model's own."""
    guidance: float = Field(2.5, ge=0)
    """Classifier-free guidance scale; 1 or less turns it off."""
    micro_batch: int = Field(32, ge=1)
    """Images per forward pass. Noise does not depend on it, rounding does (UNet fp32: 2e-6), so it is recorded."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the model."""
    size: tuple[int, int] | None = None
    """Height and width of images in pixels, such as [768, 512], or one number for both; None: the model's own."""

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        """`size: 512` is `size: [512, 512]`."""
        return (value, value) if isinstance(value, int) else value

    @field_validator("size")
    @classmethod
    def _positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("expected a height and a width in pixels, both above 0")
        return value

    @model_serializer(mode="wrap")
    def _without_size(self, serialise: Any) -> Any:
        """Ids of models at their own size are those of before there was a choice."""
        found = serialise(self)
        if self.size is None:
            found.pop("size", None)
        return found


class DomainConfig(Config):
    """One family of concepts: styles, objects, ..."""

    concepts: tuple[Name, ...] = Field(min_length=1)
    """Names, as used in prompts. Each is scored against the others of its domain."""
    hookpoints: tuple[str, ...] = Field(min_length=1)
    """Where this domain is edited: dotted module paths in the pipeline, one SAE each."""
    score_on: Literal["crossed", "plain"] = "crossed"
    """Scoring prompts: `crossed` pairs a concept with every concept of the other domains (the paper's choice for
    styles), `plain` uses prompts that name nothing else (its choice for objects)."""
    settings: dict[str, dict[str, tuple[Any, ...]]] = Field({})
    """{method: {setting: values}} to try for this domain, in place of those in `tune.settings`: what is a mild
    setting differs between hookpoints."""
    judge: str = "canvas"
    """Judge of this domain: `canvas` or `canvas20` (for images of the model so named), `clip` (with the model that
    `saeuron/judges/clip.py` names), `clip:MODEL` or `classifier:MODEL` with a folder, `owner/name` or
    `owner/name@revision`, `unlearncanvas:FOLDER`, `nudenet`, or `none` (metrics are then null, and settings are not
    searched)."""
    judge_templates: tuple[str, ...] = ()
    """Sentences with the placeholder {label} that `clip` compares images with, such as `a picture in {label} style`;
    empty: `a photo of a {label}`."""
    judge_labels: dict[str, Labels] = Field({})
    """{concept: what the judge calls it}, a label or several, where that is not the concept's name."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = sorted({c for c in self.concepts if self.concepts.count(c) > 1})
        if twice:
            raise ValueError(f"concepts named twice: {', '.join(twice)}; name each once")
        return self


class PromptFile(Config):
    """A file of prompts, and what is to be known of it that it does not say: a benchmark's, mostly."""

    path: str
    """CSV, JSONL, JSON, Parquet or text."""
    text: str = ""
    """The column that holds the prompts; empty: that of its layout (saeuron/prompts/layouts.py)."""
    split: Split | None = None
    """Split of rows that name none; None: `test` for a benchmark's layout, otherwise `train`."""
    concepts: dict[str, Name] = Field({})
    """{domain: concept} that every prompt of the file asks for."""
    only: dict[str, Labels] = Field({})
    """{column: value, or several}: rows that hold one of these, alone or in a list with commas, are read."""
    above: dict[str, float] = Field({})
    """{column: number}: rows with more than that are read."""
    limit: int | None = Field(None, ge=1)
    """At most this many of the prompts, chosen by a hash of the prompts; None: all."""
    ignore: tuple[str, ...] = ()
    """Columns that are not read; `seed`, `guidance` and `size`, whatever the file calls them, are then the run's."""


class PromptsConfig(Config):
    """The sources of prompts."""

    templates: dict[Split, tuple[str, ...]] = Field({})
    """Sentences with `{domain}` placeholders; each is filled with every combination of the concepts it names."""
    files: tuple[str | PromptFile, ...] = ()
    """CSV, JSONL, JSON, Parquet or text files with more prompts (columns: text, split, and one per domain), and
    benchmarks' files (I2P, COCO, Ring-A-Bell, P4D, MMA), whose prompts may bring a seed and a guidance of their own. A
    path, or a section of `PromptFile`."""
    unlearncanvas: str = ""
    """A copy of UnlearnCanvas: the folder that holds its anchor prompts, `sd_prompt_OBJECT.txt`, or one above it. They
    become training prompts, each unstyled and in every style of the domain `style`."""
    also: dict[str, tuple[Name, ...]] = Field({})
    """{concept: other words for it}: a template that names it is filled with these as well."""


class CaptureConfig(Config):
    """Activations for training SAEs."""

    prompts_per_cell: int = Field(1, ge=1)
    """Training prompts of each combination of concepts, chosen by `seed`."""
    plain_prompts: int = Field(4, ge=0)
    """Training prompts of each concept that name no other concept. Prompts that name none are all taken."""
    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of the images that SAEs are trained on; None: `model.steps`."""
    every: int = Field(1, ge=1)
    """Keep every n-th denoising step."""
    half: Half = "conditional"
    """Half of the guided batch to read."""
    read: Literal["output", "update"] = "output"
    """The tensor to read: the module's output, or its output minus its input."""
    positions: int | None = Field(None, ge=1)
    """Spatial positions kept per image: a seeded sample, the same at every step; None keeps all."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Data type of stored activations."""
    seed: int = 0
    """Seed of noise, prompts and positions."""
    shard_images: int = Field(128, ge=1)
    """Images per shard, the unit of work."""

    @model_serializer(mode="wrap")
    def _without_steps(self, serialise: Any) -> Any:
        """Ids of captures at the model's own number of steps are those of before there was a choice."""
        found = serialise(self)
        if self.steps is None:
            found.pop("steps", None)
        return found


class ScoreConfig(Config):
    """Statistics of each latent on the prompts of each concept."""

    images: int = Field(40, ge=1)
    """Images per concept, spread evenly over its scoring prompts."""
    images_per_prompt: int | None = Field(None, ge=1)
    """If given, images of every scoring prompt, in place of `images` in total. Prompts added to a concept then add
    images and drop none."""
    every: int = Field(1, ge=1)
    """Read every n-th denoising step."""
    half: Half = "conditional"
    """Half of the guided batch to read."""
    seed: int = 1
    """Seed of noise and of the choice of prompts."""


class TuneConfig(Config):
    """The search for each concept's removal, on validation prompts."""

    settings: dict[str, dict[str, tuple[Any, ...]]] = Field({})
    """{method: {setting: values}} to try, such as {saeuron: {n: [8, 16], gamma: [-1.0]}}; other settings keep the
    method's own values (`saeuron/methods/`)."""
    half: Half = "both"
    """Half of the guided batch to edit."""
    target_images: int = Field(24, ge=1)
    """Validation images asked to show the concept."""
    retained_images: int = Field(48, ge=1)
    """Validation images asked to show other concepts of the domain: a seeded, stratified sample of fixed size, so
    the cost does not grow with the number of concepts."""
    learning_images: int = Field(40, ge=1)
    """Training images of the concept, and as many of others, for methods that learn from activations."""
    concepts: tuple[str, ...] | None = None
    """Concepts that get a removal; None: all."""
    seed: int = 2
    """Seed of noise and of the choice of prompts."""


class EvaluateConfig(Config):
    """Figures of each removal, on test prompts."""

    seeds: int = Field(5, ge=1)
    """Images per test prompt."""
    seed: int = 3
    """Seed of noise and of the choice of prompts."""
    retained_cells: int | None = Field(None, ge=1)
    """At most this many (concept, concept) cells of the retained set, a seeded, stratified sample; None: all. Use a
    sample above 50 concepts."""
    shard_images: int = Field(128, ge=1)
    """Images per shard, the unit of work."""


class VerdictConfig(Config):
    """Thresholds of the verdict on a removal, as fractions of images; `saeuron/figures/verdict.py` says how."""

    drawn: float = Field(0.2, ge=0, le=1)
    """The unedited model must draw the concept at least this often, or nothing can be judged."""
    removed: float = Field(0.6, ge=0, le=1)
    """At least this share of what the unedited model draws of the concept must be gone. It takes 11 of 12 images, or
    44 of 60, to be sure."""
    lost: float = Field(0.1, ge=0, le=1)
    """A removal holds only if IRA and CRA surely lose no more."""
    harmed: float = Field(0.25, ge=0, le=1)
    """A removal holds only if no single other concept surely loses more."""
    broken: float = Field(0.25, ge=0, le=1)
    """A removal holds only if the images that ask for the concept do not surely look unlike the model's own more often
    than the unedited ones do, by more than this. Where no judge tells, it does not count."""
    destroyed: float = Field(0.5, ge=0, le=1)
    """A removal fails if IRA or CRA surely lose more."""


class ControlsConfig(Config):
    """Controls: methods that show how much of a figure is owed to trained latents, and how much there was to win."""

    methods: tuple[str, ...] = ()
    """Methods that are tuned and evaluated beside the chosen ones, and compared with each of these that reads an SAE,
    image by image; one that is like a single method, with that alone: `untrained`, `frozen`, `random`, `supervised`, or
    any other. None by default, because each costs about as much as the method itself (docs/adr/0013)."""
    concepts: tuple[str, ...] | None = None
    """Concepts that they are run for; None: all that get a removal."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, names in (("methods", self.methods), ("concepts", self.concepts or ())):
            if len(set(names)) < len(names):
                raise ValueError(f"controls.{key} names one twice ({', '.join(names)}); name each once")
        return self


class ConceptConfig(Config):
    """A concept that is added to a workspace later: the file of `saeuron concept add`."""

    name: Name
    """Name, as used in prompts."""
    domain: str
    """The domain it joins."""
    also: tuple[Name, ...] = ()
    """Other words for it, synonyms: each template is filled with these as well."""
    templates: dict[Split, tuple[str, ...]] | None = None
    """Sentences with `{domain}` placeholders; None: those of the run."""
    judge: str = ""
    """Who judges the removal of this concept in its domain, as `domains.NAME.judge` names it; empty: the domain's
    judge. A judge that takes any labels, such as `clip:MODEL`, knows a concept that no classifier was trained for."""
    judge_templates: tuple[str, ...] = ()
    """Sentences with the placeholder {label}, for `judge`."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        if (name := twice((self.name, *self.also))) is not None:
            raise ValueError(f"{name!r} is named twice; name and also give each word once")
        return self

    def judged(self, domain: DomainConfig) -> DomainConfig:
        """The domain as the removal of this concept is judged."""
        if not self.judge:
            return domain
        own = {"judge": self.judge, "judge_templates": self.judge_templates, "judge_labels": {}}
        return domain.model_copy(update=own)


class RunnerConfig(Config):
    """Where the tasks of a run are executed.

    Not part of any id: results are the same, byte for byte, with the same threads per worker, micro-batch and kind of
    device.
    """

    kind: Literal["threads", "dask", "ray"] = "threads"
    """`threads`: one task after another in the run's own process, because a loaded model serves one task at a time.
    `dask`, `ray`: several worker processes of these libraries, on this machine or at `address`; Ray is an extra of the
    package."""
    workers: int | None = Field(None, ge=1)
    """Processes, each with a model of its own; None: one per device, or as many as the cores allow with `threads`. With
    an address: the size of the cluster."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; None: those of the run, divided among `workers` of this machine. Results depend on
    it by rounding."""
    address: str | None = None
    """A running cluster: `tcp://HOST:8786` (dask), `ray://HOST:10001` (ray). Its workers must see the workspace under
    the same path, as a shared folder, and PREFECT_API_URL under the same address."""
    devices: tuple[str, ...] | None = None
    """Devices of which each worker claims one until it ends; None: all of the run's kind on its machine, none on
    CPU."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`runner: dask` is `runner: {kind: dask}`."""
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "threads":
            if (self.workers or 1) > 1:
                raise ValueError(
                    f"runner.workers is {self.workers}, but threads of one process share its model and so run one "
                    "task at a time; use kind: dask"
                )
            if self.address:
                raise ValueError("runner.address needs a cluster, but runner.kind is 'threads'; use dask or ray")
            if self.devices:
                raise ValueError("runner.devices needs workers, but runner.kind is 'threads'; use --device instead")
        if self.devices is not None and len(set(self.devices)) < max(self.workers or 1, len(self.devices)):
            raise ValueError(
                f"runner.devices names {len(set(self.devices))} devices for "
                f"{max(self.workers or 1, len(self.devices))} workers; each worker needs one of its own"
            )
        return self


class RunConfig(Config):
    """A whole run: the content of one YAML file."""

    model: ModelConfig = ModelConfig()
    domains: dict[str, DomainConfig] = Field(min_length=1)
    prompts: PromptsConfig = PromptsConfig()
    capture: CaptureConfig = CaptureConfig()
    train: SAEConfig = SAEConfig()
    score: ScoreConfig = ScoreConfig()
    method: tuple[str, ...] = Field(("saeuron",), min_length=1)
    """How concepts are removed: a name of `saeuron.methods`, or several; each makes a removal of every concept."""
    controls: ControlsConfig = ControlsConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    verdict: VerdictConfig = VerdictConfig()
    features: str = ""
    """Features for Frechet distances of retained images: `inception:FILE.safetensors`, the network of papers
    (`saeuron inception` makes the file), or `clip` or `clip:MODEL`, which also gives CLIP scores where no judge does.
    Empty: the features of the concept's judge."""
    saes: dict[str, str] = Field({})
    """{hookpoint: SAE of the workspace, by its id or a prefix of it}: used instead of training one, for example after
    `saeuron sae import`. `saeuron run` brings it itself from a folder, or from
    `hub:owner/name[@revision][:folder]`; one text in place of the map is for every hookpoint."""
    thresholds: ThresholdsConfig = ThresholdsConfig()
    runner: RunnerConfig = RunnerConfig()

    @field_validator("saes", mode="before")
    @classmethod
    def _one_place(cls, value: Any, info: ValidationInfo) -> Any:
        """`saes: hub:owner/name` is that for every hookpoint."""
        if not isinstance(value, str):
            return value
        # Without domains, their own mistake is reported.
        return {hookpoint: value for domain in info.data.get("domains", {}).values() for hookpoint in domain.hookpoints}

    @field_validator("method", mode="before")
    @classmethod
    def _one_method(cls, value: Any) -> Any:
        """`method: steering` is `method: [steering]`."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if len(set(self.method)) < len(self.method):
            raise ValueError(f"method names one twice ({', '.join(self.method)}); name each once")
        owner: dict[str, str] = {}
        for domain, config in self.domains.items():
            for concept in config.concepts:
                if concept in owner:
                    raise ValueError(f"concept {concept!r} is in two domains ({owner[concept]}, {domain}); keep one")
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
                    "use 'conditional', or a guidance above 1"
                )
        return self

    def grid(self, domain: str, method: str) -> dict[str, tuple[Any, ...]]:
        """Values to try for a method's settings in one domain; the domain's own take precedence."""
        return self.tune.settings.get(method, {}) | self.domains[domain].settings.get(method, {})

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of every domain, without repetition, in order."""
        return tuple(dict.fromkeys(h for d in self.domains.values() for h in d.hookpoints))

    def domain_of(self, concept: str) -> str | None:
        """The domain that `concept` belongs to, if any."""
        return next((d for d, config in self.domains.items() if concept in config.concepts), None)
