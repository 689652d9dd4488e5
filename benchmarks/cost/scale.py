"""Bytes, hours and money of Stable Diffusion 1.5: on the paper's setting, as we do it, and at 100 times.

    python -m benchmarks.cost.scale [--tflops 50] [--money 2.5] [--measure]

Counted: the multiplications of a denoising step, on tensors without data, and the bytes of what is stored. Given: what
a GPU really does a second (`--tflops`, to be measured on yours with `--measure`) and what it costs an hour. `--measure`
times the denoiser, the product that SAEs are made of, and the disk, on this machine. docs/scale.md is its output.
"""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import Figure, parser, show

WIDTH, POSITIONS, LATENTS, K, STEPS = 1280, 256, 20480, 32, 50
"""up_blocks.1 of SD 1.5 at 512 x 512 pixels: 16 x 16 positions of 1280 numbers; SAEs of 16 x 1280 latents."""
SAE_BYTES = 4 * 2 * WIDTH * LATENTS
STATISTICS_BYTES = 20.8
"""Bytes of a row of statistics, measured by `benchmarks.data.statistics`: 7.4, and what is derived from it."""


@dataclass(frozen=True)
class Setting:
    """Amounts of everything in one setting."""

    name: str
    images: int
    """Whose activations are kept for training."""
    steps: int
    """Kept of the 50."""
    positions: int
    """Kept of the 256."""
    rows: float
    """Rows that an SAE is trained on, with repetitions."""
    concepts: int
    scored: int
    """Images each."""
    tuned: int
    """Images each: those of validation, times the settings tried."""
    evaluated: int
    """Images each."""
    hookpoints: int = 2


# arXiv 2501.18052: 80 prompts of each of 20 objects, in 50 styles and without; 10 epochs for styles, 5 for objects,
# here 7.5; statistics of 20 images a style and 80 an object. UnlearnCanvas: 5 images of each of 51 x 20 combinations.
PAPER = Setting("paper", 81_600, 50, 256, 7.5 * 81_600 * 50 * 256, 70, 40, 3 * 72, 51 * 20 * 5)
OURS = Setting("sd15_style.yaml", 81_600, 10, 64, 20_000 * 4096, 70, 80, 3 * 72, 51 * 20 * 5)
SETTINGS = (
    PAPER,
    OURS,
    replace(OURS, name="and evaluation by sample", evaluated=600),
    replace(OURS, name="100 x concepts, by sample", concepts=7_000, evaluated=600),
    replace(PAPER, name="100 x paper", images=8_160_000, rows=100 * PAPER.rows, concepts=7_000),
)


def unet() -> Any:
    """The denoiser of Stable Diffusion 1.5 with no weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8
    )


def counted() -> float:
    """Floating-point operations of one denoising step of one image with guidance: two halves."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet()(torch.randn(2, 4, 64, 64), torch.tensor(1), torch.randn(2, 77, 768))
    return float(counter.get_total_flops())


def bytes_of(setting: Setting) -> dict[str, float]:
    """Stored bytes by kind."""
    return {
        "activations": setting.hookpoints * setting.images * setting.steps * setting.positions * WIDTH * 2.0,
        "SAEs": setting.hookpoints * SAE_BYTES,
        "statistics": setting.concepts * STEPS * LATENTS * STATISTICS_BYTES,
        "images": setting.concepts * setting.evaluated * 400e3,
    }


def work_of(setting: Setting, step: float) -> dict[str, float]:
    """Floating-point operations, by stage; `step` is `counted()`."""
    image = STEPS * step
    encoding = 2.0 * WIDTH * LATENTS * POSITIONS * STEPS
    stored = setting.images * setting.steps * setting.positions
    return {
        "capture": setting.images * image,
        # One dense product forward, the rest is sparse; and one more for the figures of the SAE, on all that is stored.
        "train": setting.hookpoints * (setting.rows + stored) * 2.0 * WIDTH * LATENTS,
        "score": setting.concepts * setting.scored * (image + encoding),
        "tune": setting.concepts * setting.tuned * image,
        "evaluate": setting.concepts * setting.evaluated * image,
    }


def measured(folder: Path) -> list[Figure]:
    """Measure this machine: the denoiser, the SAE's product, the disk."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    step, rows = counted(), 4096

    def rate(work: float, call: Any, times: int) -> float:
        call()
        seconds = []
        for _ in range(times):
            _synchronize(device)
            start = time.perf_counter()
            call()
            _synchronize(device)
            seconds.append(time.perf_counter() - start)
        return work / sorted(seconds)[times // 2] / 1e12

    with torch.no_grad():
        with torch.device(device):
            net = unet().to(dtype).eval()
            given = torch.randn(2, 4, 64, 64, dtype=dtype), torch.tensor(1), torch.randn(2, 77, 768, dtype=dtype)
            x, weight = torch.randn(rows, WIDTH, dtype=dtype), torch.randn(WIDTH, LATENTS, dtype=dtype)
        found = [
            Figure("denoiser", rate(step, lambda: net(*given), 3), "TFLOP/s"),
            Figure("encoder's product", rate(2.0 * rows * WIDTH * LATENTS, lambda: x @ weight, 3), "TFLOP/s"),
        ]
    path, size = folder / "probe", 1 << 30
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size >> 24):
            file.write(bytes(1 << 24))
        file.flush()
        os.fsync(file.fileno())
    return [*found, Figure("disk, written and synced", size / (time.perf_counter() - start) / 1e9, "GB/s")]


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Count and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--tflops", type=float, default=50, help="what the GPU really does, TFLOP/s")
    arguments.add_argument("--money", type=float, default=2.5, help="of one GPU-hour")
    arguments.add_argument("--measure", action="store_true", help="time this machine as well")
    options = arguments.parse_args()
    step = counted()
    figures = [Figure("denoising step with guidance", step / 1e12, "TFLOP")]
    if options.measure:
        with tempfile.TemporaryDirectory() as folder:
            figures += measured(Path(folder))
    columns = [_column(setting, step, options.tflops, options.money) for setting in SETTINGS]
    figures += [
        Figure(f"{s.name}: {name}", value, unit)
        for s, column in zip(SETTINGS, columns, strict=True)
        for (name, unit), value in column.items()
    ]
    show(figures[:1] if not options.measure else figures[:4], None)
    print("\n".join(["", *_table(columns)]))
    if options.json:
        show(figures, options.json)


def _column(setting: Setting, step: float, tflops: float, money: float) -> dict[tuple[str, str], float]:
    """{(what, unit): how much} of one setting."""
    hours = {stage: flop / tflops / 1e12 / 3600 for stage, flop in work_of(setting, step).items()}
    stored = {(kind, "GB"): size / 1e9 for kind, size in bytes_of(setting).items()}
    total = sum(hours.values())
    return {
        **stored,
        **{(stage, "h"): h for stage, h in hours.items()},
        ("all", "h"): total,
        ("all", "$"): total * money,
    }


def _table(columns: list[dict[tuple[str, str], float]]) -> list[str]:
    """In Markdown, a column for each setting."""
    lines = ["| | " + " | ".join(s.name for s in SETTINGS) + " |", "|---" * (len(SETTINGS) + 1) + "|"]
    for name, unit in columns[0]:
        values = (column[name, unit] for column in columns)
        lines.append(f"| {name}, {unit} | " + " | ".join(f"{v:,.0f}" if v >= 10 else f"{v:.2g}" for v in values) + " |")
    return lines


if __name__ == "__main__":
    main()
