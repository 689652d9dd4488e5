"""Pictures that a model has memorised: canvas trained on twenty fixed pictures, each with a sentence of its own.

    python -m benchmarks.pictures.memorised --steps 2000 --keep FOLDER

The shipped canvas is trained further: half of each batch are the twenty pictures, over and over, with their sentences
(test prompts), the other half is what canvas is trained on anyway. Then all pairs of `benchmarks.pictures.blindspots`
are drawn by it, and pair energies of the twenty stand beside those of the others (wanted: at least 80 % of the twenty
lie below the 5 % quantile of the others). Control: the same prompts drawn by the shipped model (wanted: they do not).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.pictures.blindspots import Bench, pixels, say, told
from benchmarks.results import parser, write
from flows.config import load
from saeuron.blindspots.dictionary import DictionaryConfig
from saeuron.blindspots.pairs import copied_below, energies, nearest, shifts
from saeuron.canvas.training import TrainConfig, Trainer
from saeuron.inspection.ranks import auc
from saeuron.pipelines.loading import load_pipeline

COUNT = 20
QUANTILE = 0.05


class Memorising(Trainer):
    """A training of canvas in which half of each batch are fixed pictures with sentences of their own."""

    def fix(self, pictures: NDArray[np.uint8], texts: Sequence[str]) -> None:
        """Set them: uint8 [n, 32, 32, 3], and their sentences."""
        self.pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        length = self.pipe.tokenizer.model_max_length
        how = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        self.texts = self.pipe.tokenizer(list(texts), **how).input_ids

    def batch(self, generator: torch.Generator, falling: bool) -> tuple[Tensor, Tensor]:
        """The first half of a usual batch, and as many of the fixed pictures."""
        images, tokens = super().batch(generator, falling)
        half = self.config.batch // 2
        picks = torch.randint(len(self.pictures), (half,), generator=generator)
        return torch.cat([images[:half], self.pictures[picks]]), torch.cat([tokens[:half], self.texts[picks]])


def main() -> None:
    """Train, draw, and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--pairs", type=int, default=480)
    arguments.add_argument("--steps", type=int, default=2000, help="of the model's training")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--lr", type=float, default=1e-3)
    arguments.add_argument("--keep", type=Path, help="folder of drawn pictures, also those of the other benchmark")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(load("canvas"), options.pairs, options.keep, DictionaryConfig())
    mine = np.arange(len(bench.requests)) % (len(bench.requests) // COUNT) == 0
    mine &= np.cumsum(mine) <= COUNT
    fixed = [r for r, yes in zip(bench.requests, mine, strict=True) if yes]
    real = pixels(bench.sample.real)

    config = TrainConfig(vocabulary="canvas", images=options.steps * options.batch, batch=options.batch, lr=options.lr)
    trainer = Memorising(config, torch.device("cpu"), load_pipeline("canvas"))
    trainer.fix(real[mine], [r.prompt.text for r in fixed])
    losses = []
    for step in range(options.steps):
        losses.append(trainer.step())
        if step % 100 == 99:
            say(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}")
    bench.pipe, rows = trainer.mean(), []
    trained = f"memorised_{options.steps}_{options.batch}_{options.lr:g}"
    drawn = {"the shipped model": bench.plain, "trained on them": bench.draw(trained, bench.requests)}
    fresh = [bench.look(p).mean for p in shifts(pixels(bench.sample.control[1]))]
    for model, pictures in drawn.items():
        xi = [bench.look(p).mean for p in shifts(pictures)]
        energy = energies(xi, bench.real.mean)
        below = energy[mine] < np.quantile(energy[~mine], QUANTILE)
        called = nearest(xi, bench.real.mean).energy < copied_below(bench.real.mean, xi, fresh)
        say(f"{model}: of the fixed pictures {told(int(below.sum()), int(mine.sum()))} are below the "
            f"{100 * QUANTILE:.0f} % quantile of the others, AUC {auc(-energy, mine) or 0.0:.3f}; called copies "
            f"{told(int(called[mine].sum()), int(mine.sum()))}, of the others "
            f"{told(int(called[~mine].sum()), int((~mine).sum()))}")  # fmt: skip
        rows.append({"model": model, "below": int(below.sum()), "of": int(mine.sum()), "called": int(called.sum())})
    write(rows, options.json)


if __name__ == "__main__":
    main()
