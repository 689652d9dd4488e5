"""Train one sparse autoencoder on a stream of activation rows, with exact resume.

Loss: FVU of the batch + alpha * AuxK (2406.04093 section 2 and appendix A.2; settings of SAeUron 2501.18052).
"""

import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from saeuron.checkpoint import (
    load_tensors,
    pack_optimizer,
    prefixed,
    save_tensors,
    stripped,
    tensors_digest,
    unpack_optimizer,
)
from saeuron.errors import BadWeights, ConfigError, SaeuronError
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.labels import Concepts, labels_for
from saeuron.sae.losses import fvu, geometric_median
from saeuron.sae.moments import Moments
from saeuron.sae.ranks import ALONE, Ranks
from saeuron.sae.sparse import Pattern, Room, decode
from saeuron.sae.streams import Rows, Stream, Streams, ahead, by_hookpoint, labels_at, rows_at, rows_in
from saeuron.sae.update import TritonUpdate, Update
from saeuron.sae.variants import LabelledTopK, SparseVariant, make

_log = logging.getLogger(__name__)

FAST_FROM = 8
"""The sparse path is used from this many latents per active one."""

SAVING = 1 / 20
"""Checkpoints are postponed while writing them would take more than this fraction of the time."""


class Point(NamedTuple):
    """One point of the training curve; means since the previous point."""

    step: int
    rows: int
    fvu: float
    l0: float
    dead: float
    """Fraction of latents silent for `dead_rows` rows."""
    loss: float


def learning_rate(config: SAEConfig, step: int) -> float:
    """Warm-up, then linear or cosine decay to zero at `config.steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    match config.schedule:
        case "linear":
            return config.lr * (1 - done)
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            return config.lr


def kernels_for(config: SAEConfig, device: torch.device) -> Literal["torch", "triton"]:
    """The kernels to use on a device, with `train.kernels: auto` resolved.

    `auto` never chooses Triton: its kernels were tested in the interpreter and compiled, but have not run on a GPU.

    Raises:
        ConfigError: Triton is requested on a device that cannot run it.
    """
    if config.kernels == "triton" and device.type != "cuda" and "TRITON_INTERPRET" not in os.environ:
        raise ConfigError(f"train.kernels 'triton' needs CUDA; on {device} use 'torch' or 'auto'.")
    return "triton" if config.kernels == "triton" else "torch"


class Trainer:
    """State of one training run: the variant, Adam's moments, silent rows of each latent, and the number of steps."""

    def __init__(
        self,
        config: SAEConfig,
        width: int,
        hookpoint: str,
        device: str | torch.device = "cpu",
        path: Literal["auto", "fast", "plain"] = "auto",
        ranks: Ranks = ALONE,
        concepts: Concepts | None = None,
    ) -> None:
        """`path` forces one of the two paths of `SparseVariant`, to compare them; `ranks` are the processes that train.

        `concepts` are those that the labels of the rows are of, for variants that learn from them.

        Raises:
            ConfigError: the configuration does not fit this width, these ranks or this device, or it needs labels.
        """
        self.concepts = labels_for(config, concepts, hookpoint)
        self.config, self.hookpoint, self.device, self.step_index = config, hookpoint, torch.device(device), 0
        # With other concepts the numbers of a checkpoint would mean something else.
        self._told = {"concepts": {d: [*names] for d, names in self.concepts.items()}} if self.concepts else {}
        sizes = tuple(len(names) for names in self.concepts.values())
        self.n_latents = n_latents = config.check(width, hookpoint, sum(sizes))
        shared, size = ("batch", config.batch) if config.share == "rows" else ("expansion * D", n_latents)
        if size % ranks.size:
            raise ConfigError(f"train.{shared} is {size}: expected a multiple of the {ranks.size} processes.")
        kernels = kernels_for(config, self.device)
        self.ranks = ranks
        self.rows_of, self.latents_of = (ranks, ALONE) if config.share == "rows" else (ALONE, ranks)
        self.variant = make(config, width)
        self.variant.rows_of = self.rows_of
        if isinstance(self.variant, LabelledTopK):
            self.variant.sizes = sizes
        if config.dictionary == "frozen":
            self.variant.freeze_decoder()
        if isinstance(self.variant, SparseVariant):
            self.variant.fast = path == "fast" or (path == "auto" and n_latents >= FAST_FROM * config.k)
            if self.latents_of.size > 1:
                self.variant.divide(self.latents_of)
            if kernels == "triton":
                from saeuron.sae.triton_kernels import TRITON

                self.variant.kernels = TRITON
        self.variant = self.variant.to(self.device)
        suits = kernels == "triton" and TritonUpdate.suits(self.variant)
        self.update = (TritonUpdate if suits else Update)(self.variant, config, self.latents_of)
        self.silent = torch.zeros(self.variant.n_latents, dtype=torch.int64, device=self.device)
        self.dead_rows = config.dead_rows or max(1, config.steps * config.batch // 10)
        self.history: list[Point] = []
        self.factor = 1.0
        """Factor applied to rows before anything else (`normalize`)."""
        self._recent: list[Tensor] = []
        """FVU, L0 and loss of each step since the last point; kept on the device, to avoid synchronising."""

    @property
    def sae(self) -> SAE:
        """The current SAE, for inference: a copy, for unscaled activations."""
        sae = self.variant.export(self.hookpoint)
        if self.factor != 1:
            # Every activation function is homogeneous: with x, biases and thresholds times c, f is times c.
            with torch.no_grad():
                for tensor in (sae.b_enc, sae.b_dec, sae.threshold):
                    tensor.div_(self.factor)
        return sae

    def initialise(self, rows: Tensor) -> None:
        """Initialise from a first sample, [B, D]."""
        x = rows.to(self.device).float()
        if self.config.normalize:
            distance = float((x - geometric_median(x)).norm(dim=1).mean())
            self.factor = math.sqrt(x.shape[1]) / distance if distance > 0 else 1.0
        self.variant.initialise(x * self.factor if self.config.normalize else x)

    def step(self, rows: Tensor, labels: Tensor | None = None) -> None:
        """Take one optimizer step on rows [B, D]; with several ranks, pass all rows to each.

        An untrained SAE only looks at the rows, so that its thresholds and figures are known.

        Args:
            labels: int64 [B, G], for variants that learn from them; the others ignore them.

        Raises:
            ConfigError: training diverged.
            SaeuronError: the variant learns from labels, and got none, or others than of its concepts.
        """
        variant, config, rows_of = self.variant, self.config, self.rows_of
        x = rows_of.part(rows).to(self.device).float()
        if config.normalize:
            x = x * self.factor
        learns = config.dictionary != "untrained"
        with torch.set_grad_enabled(learns):
            told = [rows_of.part(labels).to(self.device)] if config.needs_labels and labels is not None else []
            out = variant(x, self.step_index, *told)
        dead = self.silent >= self.dead_rows
        loss = out.loss
        if learns and config.auxk_alpha and bool(self.latents_of.any(dead.any())):
            loss = loss + config.auxk_alpha * variant.auxiliary(x, out.x_hat, dead)
        if learns:
            variant.zero_grad()
            loss.backward()
        with torch.no_grad():
            if learns:
                rows_of.average(p.grad for p in variant.parameters() if p.grad is not None)
                self.update.step(learning_rate(config, self.step_index))
            if out.least is not None:
                rows_of.average([out.least])
            variant.follow(out.least, self.step_index)
            self.silent = torch.where(rows_of.any(out.fired), 0, self.silent + len(rows))
            l0 = self.latents_of.count(out.active) / len(x)
            figures = torch.stack([fvu(x, out.x_hat, rows_of), x.new_full((), l0), loss])
            rows_of.average([figures])
            self._recent.append(figures)
        self.step_index += 1
        if self.step_index % 20 == 0 or self.step_index == config.steps:
            f, l0, total = self._figures().mean(0).tolist()
            if not (math.isfinite(f) and math.isfinite(total)):
                raise ConfigError(
                    f"training {self.hookpoint or 'an SAE'} diverged by step {self.step_index}: FVU {f:g}, loss "
                    f"{total:g}; expected finite numbers. Lower train.lr, or check the activations."
                )
            share = self.latents_of.count(int((self.silent >= self.dead_rows).sum())) / self.n_latents
            self.history.append(Point(self.step_index, self.step_index * config.batch, f, l0, share, total))
            self._recent.clear()

    def _figures(self) -> Tensor:
        """FVU, L0 and loss of each step since the last point, float64 [steps, 3]."""
        return torch.stack(self._recent).cpu().double() if self._recent else torch.zeros(0, 3, dtype=torch.float64)

    def _divided(self) -> set[str]:
        """Names of the checkpoint tensors that have a row for each latent, for a variant that can be divided."""
        moments = {
            f"adam.{index}.{moment}"
            for index, (name, _) in enumerate(self.variant.named_parameters())
            if name in SparseVariant.divided
            for moment in ("exp_avg", "exp_avg_sq")
        }
        return {"silent", *moments, *(f"variant.{name}" for name in SparseVariant.divided)}

    def save(self, path: Path) -> None:
        """Write everything needed for an exact resume; rank 0 writes it whole."""
        tensors = prefixed("variant", self.variant.state_dict()) | pack_optimizer(self.update.optimizer, "adam")
        tensors |= {"silent": self.silent, "recent": self._figures()}
        if self.config.normalize:
            tensors["factor"] = torch.tensor(self.factor, dtype=torch.float64)
        if self.latents_of.size > 1:
            for name in sorted(self._divided() & tensors.keys()):
                tensors[name] = self.latents_of.collect(tensors[name])
        if not self.ranks.first:
            return
        metadata = {"step": self.step_index, "config": self.config.identity, "history": self.history, **self._told}
        save_tensors(path, tensors, {**metadata, "sha256": tensors_digest(tensors, metadata)})

    def load(self, path: Path) -> None:
        """Resume from `save`.

        Raises:
            BadWeights: the file is damaged; resuming from a flipped byte would train something else.
            SaeuronError: the checkpoint belongs to another configuration.
        """
        tensors, metadata = load_tensors(path)
        if metadata.pop("sha256", "") != tensors_digest(tensors, metadata):
            raise BadWeights(f"{path} is damaged: its checksum differs; delete it to train from the start.")
        if metadata["config"] != self.config.identity or any(metadata.get(k) != v for k, v in self._told.items()):
            raise SaeuronError(f"{path} is a checkpoint of another configuration; delete it to train from the start.")
        if self.latents_of.size > 1:
            tensors |= {name: self.latents_of.part_of(tensors[name]) for name in self._divided() & tensors.keys()}
        self.variant.load_state_dict(stripped("variant", tensors))
        unpack_optimizer(self.update.optimizer, "adam", tensors)
        self.silent = tensors["silent"].to(self.device)
        self._recent = list(tensors["recent"].reshape(-1, 3).float().to(self.device))
        self.step_index = metadata["step"]
        self.factor = float(tensors.get("factor", 1.0))
        self.history = [Point(*p) for p in metadata["history"]]


def train(
    config: SAEConfig,
    stream: Stream,
    width: int,
    hookpoint: str,
    *,
    checkpoint: Path,
    device: str | torch.device = "cpu",
    ranks: Ranks = ALONE,
    report: Callable[[Point], None] = lambda point: None,
    concepts: Concepts | None = None,
) -> Trainer:
    """Train to the end, resuming from `checkpoint` if it exists; an interrupted run ends with the same bytes.

    A damaged checkpoint counts as none: training starts from the beginning, with a warning. `concepts` are those that
    the labels of the stream are of, for variants that learn from them.
    """
    trainer = Trainer(config, width, hookpoint, device, ranks=ranks, concepts=concepts)
    resumed = False
    if checkpoint.exists():
        try:
            trainer.load(checkpoint)
            resumed = True
        except BadWeights as error:
            _log.warning("training %s from the start: its checkpoint is damaged (%s)", hookpoint or "an SAE", error)
    # No rank may write a checkpoint before all have looked for one.
    ranks.wait()
    if not resumed:
        trainer.initialise(rows_in(next(stream(0))))
    together([trainer], stream, {0: checkpoint}, report=lambda _, point: report(point))
    return trainer


def together(
    trainers: Sequence[Trainer],
    stream: Stream | Streams,
    checkpoints: Mapping[int, Path],
    *,
    report: Callable[[int, Point], None] = lambda index, point: None,
) -> None:
    """Train several SAEs to the end on one stream of rows, which is read once, for one hookpoint or several.

    They must be initialised or loaded, at the same step, with the same batch size; each ends as it would alone. They
    take their steps in turns, and share the memory for pre-activations.

    Args:
        trainers: any mix of variants, sizes, weight seeds and hookpoints.
        stream: rows for all of them, or by hookpoint.
        checkpoints: where to save them, by index.
        report: called with the index and each new point of its curve.
    """
    start = {t.step_index for t in trainers}
    sizes = {t.config.batch for t in trainers}
    if len(start) != 1 or len(sizes) != 1:
        raise SaeuronError(f"SAEs on one stream are at steps {start} with batches {sizes}: expected one of each.")
    room = Room()
    for variant in (t.variant for t in trainers):
        if isinstance(variant, SparseVariant):
            variant.room = room
    begin, end = start.pop(), max(t.config.steps for t in trainers)
    if begin >= end:
        return
    saving = {i: _Saving(trainers[i], path) for i, path in checkpoints.items()}
    devices = {t.device for t in trainers}
    stored: Iterator[Rows] = stream(begin)
    batches = map(by_hookpoint, itertools.islice(stored, end - begin))
    for rows in ahead(batches, devices.pop()) if len(devices) == 1 else batches:
        for i, trainer in enumerate(trainers):
            if trainer.step_index >= trainer.config.steps:
                continue
            before = len(trainer.history)
            labels = [labels_at(trainer.hookpoint, rows)] if trainer.config.needs_labels else []
            trainer.step(rows_at(trainer.hookpoint, rows), *labels)
            if len(trainer.history) > before:
                report(i, trainer.history[-1])
            if i in saving and trainer.step_index % trainer.config.checkpoint_every == 0:
                saving[i].consider()


class _Saving:
    """Writes a trainer's checkpoints, spaced so that they take at most `SAVING` of the time."""

    def __init__(self, trainer: Trainer, path: Path) -> None:
        self.trainer, self.path, self.took, self.ended = trainer, path, 0.0, 0.0

    def consider(self) -> None:
        """Write a checkpoint unless it is too early; rank 0 decides for all ranks."""
        begun, ranks = time.monotonic(), self.trainer.ranks
        due = begun - self.ended >= self.took * (1 / SAVING - 1)
        if ranks.count(int(due and ranks.first)):
            self.trainer.save(self.path)
            self.ended = time.monotonic()
            self.took = self.ended - begun


class Quality(NamedTuple):
    """Reconstruction quality of an SAE at inference, over a whole set."""

    fvu: float
    l0: float
    never: float
    """Fraction of latents that never fired on the set."""


@torch.no_grad()
def quality(sae: SAE, batches: Iterator[Tensor]) -> Quality:
    """FVU accumulated over the whole set, not averaged over batches; float64 sums, on the SAE's device.

    Raises SaeuronError if there are no rows.
    """
    found: Moments | None = None
    fired = torch.zeros(sae.info.n_latents, dtype=torch.bool, device=sae.W_enc.device)
    for batch in batches:
        x = batch.to(sae.W_enc.device).float()
        codes = sae.encode(x)
        part = Moments.of(x, codes, _decoded(sae, codes))
        found = part if found is None else found + part
        fired |= (codes != 0).any(0)
    if found is None:
        raise SaeuronError("cannot compute FVU and L0 of no rows; expected at least one batch.")
    return Quality(found.fvu, found.l0, 1 - float(fired.float().mean()))


def _decoded(sae: SAE, codes: Tensor) -> Tensor:
    """x_hat [B, D] of codes [B, N]. Uses sparse products if few latents fire: a dense one would be half of the work."""
    if int(codes.count_nonzero()) * FAST_FROM > codes.numel():
        return sae.decode(codes)
    rows, latents = codes.nonzero(as_tuple=True)
    pattern = Pattern(rows, latents, (codes.shape[0], codes.shape[1]))
    return decode(pattern, codes[rows, latents], sae.W_dec) + sae.b_dec
