"""Images, stored bytes, FLOP and memory of the artifacts that a plan would make, counted from configurations alone.

What is counted is what grows with a model and a run: denoising, decoding, the SAEs' products, what is stored and what
is alive at once. What is not: judging, text encoders, pictures for people, Prefect. An SAE's product is counted once
for a row it is trained on (its gradients and its optimizer are sparse or small beside it), and once for every stored
row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flows.plan import Plan
from saeuron import capturing, evaluation, methods, scoring, tuning
from saeuron.config import ModelConfig, in_text
from saeuron.pipelines.counting import Cost, counted
from saeuron.prompts import Prompt
from saeuron.sae.variants import VARIANTS
from storage.dense.activations import POOL_ROWS
from tasks.capture import CaptureJob
from tasks.engine.job import Job
from tasks.images import ImagesJob
from tasks.prompts import PromptsJob
from tasks.sae import thresholds
from tasks.sae.thresholds import ThresholdsJob
from tasks.score import ScoreJob
from tasks.train import TrainJob
from tasks.trials import TrialsJob

PROCESS = 0.9e9
"""Bytes of a run's process without its model and its batch: the 1.0 GB that were measured on canvas, less these."""
PIXEL = 1.5
"""Bytes of a pixel in a PNG: a guess, as pictures differ."""
STATISTIC = 20.8
"""Bytes of a (step, latent) of a concept: 7.4, and what is derived from it; measured (`benchmarks.data.statistics`)."""
SUMMED = 36
"""Bytes alive for each latent of a row while scores are summed: float32 f, and float64 and int64 beside it."""
PRODUCT = 8
"""Bytes alive for each latent of a row that is encoded: before the activation and after it."""


@dataclass(frozen=True)
class Amount:
    """The cost of making one artifact."""

    images: int = 0
    flop: float = 0.0
    stored: float = 0.0
    """Bytes."""
    device: float = 0.0
    """Bytes alive at once on the device, the model's weights included."""
    host: float = 0.0
    """Bytes alive at once on the machine; on a CPU those of the device as well."""


@dataclass
class Counting:
    """Counts the jobs of one plan."""

    plan: Plan
    rows: dict[str, float] = field(default_factory=dict)
    """{capture: rows stored}."""
    drawn: set[tuple[str, str, ModelConfig]] = field(default_factory=set)
    """Images that another artifact of the stage is made from in the same pass."""

    def of(self, job: Job) -> Amount:
        """The amount of one job; nothing where a stage costs little beside others."""
        for kind, count in self._by_kind:
            if isinstance(job, kind):
                return count(job)
        return Amount()

    @property
    def _by_kind(self) -> list[tuple[type[Job], Callable[..., Amount]]]:
        return [
            (CaptureJob, self._capture),
            (TrainJob, self._train),
            (ThresholdsJob, self._thresholds),
            (ScoreJob, self._score),
            (TrialsJob, self._trials),
            (ImagesJob, self._images),
        ]

    def prompts(self, *ids: str) -> list[Prompt]:
        """The prompts of some sets of the plan."""
        return [p for i in ids for p in self._built(i)]

    def _built(self, prompts_id: str) -> Sequence[Prompt]:
        found = self.plan.jobs[prompts_id]
        assert isinstance(found, PromptsJob)
        return self.plan.built(found)

    def cost(self, model: ModelConfig) -> Cost:
        """The cost of a job's model."""
        return counted(model, self.plan.config.hookpoints)

    def _once(self, job: Job, images_id: str, model: ModelConfig) -> bool:
        """Whether these images are drawn for this job, and not in the pass of an earlier one."""
        key = (job.stage, images_id, model)
        if not images_id or key not in self.drawn:
            self.drawn.add(key)
            return True
        return False

    def _sae(self, width: int) -> float:
        """Bytes of an SAE of the run."""
        return 4.0 * 2 * width * self.plan.config.train.latents(width)

    def _drawing(
        self, model: ModelConfig, images: int, stored: float, beside: float = 0.0, held: float = 0.0
    ) -> Amount:
        """Drawing images; `beside` bytes are on the device with them, `held` on the host."""
        cost = self.cost(model)
        device = cost.weights + model.micro_batch * cost.alive + beside
        return self._placed(images, images * (model.steps * cost.step + cost.once), stored, device, held, cost.weights)

    def _placed(
        self, images: int, flop: float, stored: float, device: float, held: float = 0.0, loaded: float = 0.0
    ) -> Amount:
        # Weights pass through the host; on a CPU they stay there.
        host = PROCESS + held + (device if self.plan.device == "cpu" else loaded)
        return Amount(images, flop, stored, device, host)

    def _capture(self, job: CaptureJob) -> Amount:
        cost, config = self.cost(job.model), job.config
        count = len(capturing.images(self.prompts(job.prompts_id), config))
        hookpoints = self.plan.config.hookpoints
        kept = {h: self._kept(job, h) for h in hookpoints}
        width = cost.places[job.hookpoint][1]
        self.rows[job.id] = float(count * kept[job.hookpoint])
        each = sum(2.0 * kept[h] * cost.places[h][1] for h in hookpoints)
        drawn = count if self._once(job, job.images_id, job.model) else 0
        # Kept by hooks until the batch is done, and then stacked.
        beside = 2 * job.model.micro_batch * each
        held = min(config.shard_images, count) * each
        return self._drawing(job.model, drawn, 2.0 * count * kept[job.hookpoint] * width, beside, held)

    def _kept(self, job: CaptureJob, hookpoint: str) -> int:
        """Rows of an image that are kept at a hookpoint."""
        cost, config = self.cost(job.model), job.config
        steps = 1 if in_text(hookpoint) else -(-job.model.steps // config.every)
        positions = cost.places[hookpoint][0] * (2 if config.half == "both" and job.model.guidance > 1 else 1)
        return steps * min(config.positions or positions, positions)

    def _train(self, job: TrainJob) -> Amount:
        config = job.config
        width = self.cost(self.plan.config.model).places[job.hookpoint][1]
        latents = config.latents(width)
        rows = config.steps * config.batch + self.rows.get(job.capture_id, 0.0)
        # Weights, gradients, and the two moments of Adam.
        device = 4 * self._sae(width) + config.batch * (PRODUCT * latents + 16.0 * width)
        held = 2.0 * POOL_ROWS * width
        return self._placed(0, rows * 2.0 * width * latents, self._sae(width), device, held)

    def _thresholds(self, job: ThresholdsJob) -> Amount:
        count = sum(map(len, thresholds.images(self.prompts(job.prompts_id), job.thresholds)))
        _, width = self.cost(job.model).places[job.hookpoint]
        # Rows are held once, as float32; p of all of them is worked out twice, some latents at a time.
        rows, sae = job.thresholds.rows * count / job.thresholds.images, self._sae(width)
        made = self._drawing(job.model, count, sae, sae, 4.0 * rows * width)
        return replace(made, flop=made.flop + 2 * rows * sae / 4)

    def _score(self, job: ScoreJob) -> Amount:
        cost, config = self.cost(job.model), job.config
        found = scoring.images(self.prompts(job.prompts_id), config, job.domain, job.concept, job.score_on)
        drawn = len(found) if self._once(job, f"{job.concept} {job.images_id}", job.model) else 0
        flop = stored = beside = 0.0
        for hookpoint in job.saes:
            positions, width = cost.places[hookpoint]
            steps, latents = -(-job.model.steps // config.every), self.plan.config.train.latents(width)
            flop += len(found) * steps * positions * 2.0 * width * latents
            stored += steps * latents * STATISTIC
            beside += self._sae(width)
            beside += job.model.micro_batch * positions * latents * SUMMED
        made = self._drawing(job.model, drawn, stored, beside)
        return Amount(made.images, made.flop + flop, made.stored, made.device, made.host)

    def _trials(self, job: TrialsJob) -> Amount:
        known = self.prompts(*job.prompts_ids)
        asked = (job.config, job.domain, job.concept, job.reference)
        each = len(tuning.validation_images(known, *asked)) if job.images_id else 0
        stored = each * (len(job.candidates) + 1)
        learned = tuning.learning_count(methods.get(job.method).needs, job.config)
        return self._drawing(
            job.model, stored + learned, stored * self._picture(job.model), self._edited(job.model, job.saes)
        )

    def _images(self, job: ImagesJob) -> Amount:
        count = len(evaluation.images(self.prompts(job.prompts_id), job.config, job.sampled_for))
        edited = self._edited(job.model, self.plan.config.hookpoints if job.removal_ids else ())
        return self._drawing(job.model, count, count * self._picture(job.model), edited)

    def _picture(self, model: ModelConfig) -> float:
        return PIXEL * self.cost(model).pixels

    def _edited(self, model: ModelConfig, hookpoints: Sequence[str] | dict[str, str]) -> float:
        """Bytes beside a model whose latents are edited: of an SAE without thresholds, all of it."""
        run = self.plan.config
        config = run.train
        if run.thresholds.images and set(hookpoints) <= set(run.saes):
            return 0.0
        if config.inference == "threshold" or VARIANTS[config.variant].activation == "threshold":
            return 0.0
        found = 0.0
        for hookpoint in hookpoints:
            positions, width = self.cost(model).places[hookpoint]
            rows = model.micro_batch * positions * (2 if model.guidance > 1 else 1)
            found += self._sae(width) / 2 + rows * PRODUCT * config.latents(width)
        return found


def amounts(plan: Plan) -> dict[str, Amount]:
    """{artifact that would be made: its amount}, in the order of the plan."""
    counting = Counting(plan)
    return {name: counting.of(job) for name, job in plan.jobs.items() if not plan.planned[name].cached}
