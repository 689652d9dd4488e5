"""The training speed of an SAE, in rows per second, beside other libraries.

    python -m benchmarks.sae.peers setup
    python -m benchmarks.sae.step

All train a TopK SAE on the same rows with the same D, N, k, batch, learning rate and threads, in float32 unless the
name says otherwise. Each runs in a process of its own with its library's trainer. They take turns, so that a busy
machine slows them alike. Figures are medians over the rounds, with the slowest and the fastest round, and the CPU time
per row, which is more reliable on a busy machine; ratios are to the fastest peer. The limit is the rate of the
encoder's product alone, 2 B D N operations: the one dense product of a step whose other products are sparse. With
--device cuda the product is in bfloat16, and the limit also moves Adam's bytes, 28 per weight.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Figure, parser, show
from benchmarks.sae.adapters.protocol import Setup
from benchmarks.sae.peers import PEERS, Contestant, ContestantFailed, Turn, check_names, missing, python_of

HORIZON = 10_000
"""Steps of the run that schedules assume, of which a few are timed: so the learning rate is almost constant, and no
latent is dead yet."""

FULL = {"width": 1280, "latents": 20480, "k": 32, "batch": 4096}
"""The paper's shape (2501.18052)."""
SMALL = {"width": 640, "latents": 5120, "k": 32, "batch": 1024}

OURS = {"ours": "", "ours, plain autograd": "plain"}
OURS_ON_GPU = {
    **OURS,
    "ours, bfloat16": "bfloat16",
    "ours, triton": "triton",
    "ours, triton, bfloat16": "triton bfloat16",
}
VARIANTS = {"sae-lens": {"sae-lens": "", "sae-lens, sparse activations": "sparse"}}
"""Contestants of libraries with several implementations of the step."""


def write_rows(path: Path, batches: int, batch: int, width: int, seed: int = 0) -> None:
    """Sparse sums of known directions plus noise, float16 [batches, batch, D].

    Each row has 16 of 4 D unit directions, with exponential magnitudes, and Gaussian noise of 5 % of its usual norm.
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((4 * width, width), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # |x|^2 is 16 E[m^2] = 32 on average.
    noise = np.float32(0.05 * (32 / width) ** 0.5)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (batches, batch, width))
    for part in rows:
        total = noise * rng.standard_normal((batch, width), dtype=np.float32)
        for _ in range(16):
            magnitudes = rng.exponential(size=(batch, 1)).astype(np.float32)
            total += magnitudes * directions[rng.integers(len(directions), size=batch)]
        part[:] = total
    rows.flush()


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--width", type=int, help="D")
    arguments.add_argument("--latents", type=int, help="N, a multiple of D")
    arguments.add_argument("--k", type=int)
    arguments.add_argument("--batch", type=int, help="rows a step")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, help="steps a turn; 1 by default, 50 on a GPU")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS)}; default all; '' for none")
    arguments.add_argument("--device", default="cpu", help="cpu (the default), or a CUDA device")
    arguments.add_argument("--lr", type=float, default=4e-4)
    options = arguments.parse_args()
    names = list(PEERS) if options.peers is None else [name for name in options.peers.split(",") if name]
    check_names(arguments, names)
    shape: dict[str, Any] = {field: getattr(options, field) or value for field, value in _fitting().items()}
    if shape["latents"] % shape["width"] or shape["k"] > shape["latents"]:
        arguments.error(
            f"--latents is {shape['latents']}; a multiple of --width {shape['width']} that holds --k latents"
        )
    steps = options.steps or (1 if options.device == "cpu" else 50)
    print(
        ", ".join(f"{field} {value}" for field, value in shape.items())
        + f", {options.threads} threads, weights float32"
    )
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npy"
        # Eight batches, used again and again, and one that is held out.
        write_rows(rows, 9, shape["batch"], shape["width"])
        setup = Setup(
            str(rows), **shape, steps=HORIZON, lr=options.lr, seed=0, threads=options.threads, device=options.device
        )
        try:
            figures = speeds(setup, names, options.rounds, steps)
        except ContestantFailed as error:
            arguments.exit(1, f"a contestant stopped: {error}\n")
    show(figures, options.json)


def _fitting() -> dict[str, int]:
    """FULL, or SMALL where ten trainers of 1 GB and their batches would not fit into memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return FULL if memory > 18e9 else SMALL


def speeds(setup: Setup, names: list[str], rounds: int, steps: int) -> list[Figure]:
    """Time the steps of the limit, of ours and of the named peers, in turns."""
    entries = [("limit", Path(sys.executable), "limit", "")]
    ours = OURS if setup.device == "cpu" else OURS_ON_GPU
    entries += [(name, Path(sys.executable), "ours", variant) for name, variant in ours.items()]
    absent: dict[str, str] = {}
    for name in names:
        python = python_of(name)
        if python is None:
            absent[name] = missing(name)
        else:
            ways = VARIANTS.get(name, {name: ""})
            entries += [(way, python, PEERS[name].adapter, variant) for way, variant in ways.items()]
    turns: dict[str, list[Turn]] = {}
    error: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, Contestant] = {}
        for name, python, adapter, variant in entries:
            try:
                contestant = stack.enter_context(Contestant(python, adapter, _with(setup, variant=variant)))
                # Not timed: starting, a first step that makes the optimizer's moments, and what is compiled then.
                contestant.take(1 if setup.device == "cpu" else 5)
            except ContestantFailed as reason:
                absent[name] = str(reason)
            else:
                running[name], turns[name] = contestant, []
        for done in range(rounds):
            for name, contestant in running.items():
                turn = contestant.take(steps)
                turns[name].append(turn)
                took = f"{turn.seconds:.2f} s, CPU {turn.cpu:.2f} s"
                print(f"round {done + 1} of {rounds}, {name}: {took}", file=sys.stderr)
        for name, contestant in running.items():
            if name != "limit":
                error[name] = contestant.ask({"fvu": True})["fvu"]
    return table(setup.batch * steps, turns, error, 2e-9 * steps * setup.batch * setup.width * setup.latents) + [
        Figure(f"{name}: {reason}", None, "rows/s") for name, reason in absent.items()
    ]


def table(rows: int, turns: dict[str, list[Turn]], error: dict[str, float], product: float) -> list[Figure]:
    """The figures; the fastest peer is every contestant's baseline.

    Args:
        rows: of one turn. turns: of each contestant, one a round.
        error: held-out FVU of each. product: billions of operations in the encoder's products of a turn.
    """
    wall = {name: statistics.median(turn.seconds for turn in taken) for name, taken in turns.items()}
    cpu = {name: statistics.median(turn.cpu for turn in taken) for name, taken in turns.items()}
    peers = [name for name in turns if name not in {"limit", *OURS_ON_GPU}]
    best = min(peers, key=lambda name: wall[name], default=None)
    figures = []
    for name, taken in turns.items():
        base = (rows / wall[best], wall[best] / wall[name]) if best else ()
        cost = (1e3 * cpu[best] / rows, cpu[name] / cpu[best]) if best else ()
        figures += [
            Figure(name, rows / wall[name], "rows/s", *base),
            Figure("  slowest round", rows / max(turn.seconds for turn in taken), "rows/s"),
            Figure("  fastest round", rows / min(turn.seconds for turn in taken), "rows/s"),
            Figure("  CPU time", 1e3 * cpu[name] / rows, "ms/row", *cost),
        ]
        if name in error:
            figures.append(Figure("  held-out FVU at the end", error[name], "ratio"))
    if "limit" in turns:
        figures.append(Figure("limit, all of it product", product / wall["limit"], "GFLOP/s"))
        for name in [name for name in OURS_ON_GPU if name in turns]:
            figures += [
                Figure(f"{name}: share of the limit", wall["limit"] / wall[name], "ratio"),
                Figure("  by CPU time", cpu["limit"] / cpu[name], "ratio"),
            ]
    if best and "ours" in turns:
        rounds = [theirs.seconds / ours.seconds for ours, theirs in zip(turns["ours"], turns[best], strict=True)]
        figures += [
            Figure(f"ours over {best}, the fastest peer", wall[best] / wall["ours"], "ratio"),
            Figure("  least of a round", min(rounds), "ratio"),
            Figure("  most of a round", max(rounds), "ratio"),
            Figure("  by CPU time", cpu[best] / cpu["ours"], "ratio"),
        ]
    return figures


def _with(setup: Setup, **changes: object) -> Setup:
    return Setup(**{**vars(setup), **changes})


if __name__ == "__main__":
    main()
