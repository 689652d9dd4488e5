"""How fast an SAE trains, in rows a second, beside the libraries that one would use instead.

    python -m benchmarks.peers setup
    python -m benchmarks.sae_step
    python -m benchmarks.sae_step --curves

All train a TopK SAE on the same rows with the same D, N, k, batch, learning rate and threads, in float32 where their
name says nothing else, each in a process of its own with its own library's trainer, one at a time and in turns, so that
a busy machine slows them alike. Figures are medians over the rounds, with the slowest and the fastest round beside
them, and the CPU time that a row costs, which tells more than the clock where others use the machine; ratios are to the
fastest peer. The limit is the rate at which this machine, in its own turns, makes the encoder's product, 2 B D N
operations: the one dense product that is left in a step whose other products are sparse. With --device cuda the product
is made in bfloat16, and the limit moves Adam's bytes as well, 28 a weight.

--curves is about what is learned: our fast path against plain autograd, from the same seed on the same data.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.adapters.protocol import Setup
from benchmarks.peers import PEERS, Contestant, ContestantFailed, Turn, check_names, missing, python_of
from benchmarks.results import Figure, parser, show

HORIZON = 10_000
"""The length of the run that the schedules are told of while a few of its steps are timed: the learning rate is as
good as constant, and no latent has been silent for long enough to be dead."""

FULL = {"width": 1280, "latents": 20480, "k": 32, "batch": 4096}
"""The paper's shape (2501.18052)."""
SMALL = {"width": 640, "latents": 5120, "k": 32, "batch": 1024}
CURVES = {"width": 256, "latents": 4096, "k": 32, "batch": 512}

OURS = {"ours": "", "ours, plain autograd": "plain"}
OURS_ON_GPU = {
    **OURS,
    "ours, bfloat16": "bfloat16",
    "ours, triton": "triton",
    "ours, triton, bfloat16": "triton bfloat16",
}
VARIANTS = {"sae-lens": {"sae-lens": "", "sae-lens, sparse activations": "sparse"}}
"""Contestants of a library that has several ways to do the step."""


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
    arguments.add_argument("--steps", type=int, help="steps a turn (1), or of a training run with --curves (300)")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS)}; default all; '' for none")
    arguments.add_argument("--device", default="cpu", help="cpu (the default), or a CUDA device")
    arguments.add_argument("--lr", type=float, default=4e-4)
    arguments.add_argument("--curves", action="store_true", help="final FVU of our two paths, over 3 seeds")
    options = arguments.parse_args()
    names = list(PEERS) if options.peers is None else [name for name in options.peers.split(",") if name]
    check_names(arguments, names)
    default = CURVES if options.curves else _fitting()
    shape = {field: getattr(options, field) or value for field, value in default.items()}
    if shape["latents"] % shape["width"] or shape["k"] > shape["latents"]:
        arguments.error(
            f"--latents is {shape['latents']}; a multiple of --width {shape['width']} that holds --k latents"
        )
    steps = options.steps or (300 if options.curves else 1 if options.device == "cpu" else 50)
    print(
        ", ".join(f"{field} {value}" for field, value in shape.items())
        + f", {options.threads} threads, weights float32"
    )
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npy"
        # Timed steps may see a batch again; a run that is judged by what it learned does not. The last is held out.
        write_rows(rows, (steps if options.curves else 8) + 1, shape["batch"], shape["width"])
        setup = Setup(
            str(rows), **shape, steps=HORIZON, lr=options.lr, seed=0, threads=options.threads, device=options.device
        )
        try:
            figures = curves(setup, steps) if options.curves else speeds(setup, names, options.rounds, steps)
        except ContestantFailed as error:
            arguments.exit(1, f"a contestant stopped: {error}\n")
    show(figures, options.json)


def _fitting() -> dict[str, int]:
    """FULL, or SMALL where ten trainers of 1 GB and their batches would not fit into memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return FULL if memory > 18e9 else SMALL


def speeds(setup: Setup, names: list[str], rounds: int, steps: int) -> list[Figure]:
    """What a step of the limit, of ours and of the named peers costs, in turns."""
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


def curves(setup: Setup, steps: int) -> list[Figure]:
    """Held-out FVU of the fast and of the plain path after the same training run, for three seeds."""
    figures = []
    for seed in range(3):
        found = {}
        for path in ("plain", "fast"):
            with Contestant(Path(sys.executable), "ours", _with(setup, variant=path, seed=seed, steps=steps)) as run:
                print(f"seed {seed}, {path}: {run.take(steps).seconds:.0f} s", file=sys.stderr)
                found[path] = run.ask({"fvu": True})
        plain, fast = found["plain"]["fvu"], found["fast"]["fvu"]
        apart = max(abs(a / b - 1) for a, b in zip(found["fast"]["curve"], found["plain"]["curve"], strict=True))
        figures += [
            Figure(f"seed {seed}: held-out FVU, fast path (baseline: plain)", fast, "ratio", plain, fast / plain),
            Figure("  relative difference", abs(fast / plain - 1), "ratio"),
            Figure("  largest relative difference along the curve", apart, "ratio"),
        ]
    return figures


def _with(setup: Setup, **changes: object) -> Setup:
    return Setup(**{**vars(setup), **changes})


if __name__ == "__main__":
    main()
