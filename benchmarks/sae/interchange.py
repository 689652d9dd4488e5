"""Whether other libraries compute on our weights what we compute, and we on theirs.

    python -m benchmarks.sae.peers setup sae-lens eai-sparsify
    python -m benchmarks.sae.interchange --width 320 --latents 5120 --rows 512
    python -m benchmarks.sae.interchange --fixtures tests/saeuron/fixtures   # the small ones that the tests read

Each library runs in its own environment and writes SAEs of every kind it saves, with random weights; we import them,
and it loads what we export. A figure is the largest difference over the largest value, of the latents or of x_hat;
`baseline` is what is allowed. Exit code 1 if one is larger.
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.results import Figure, parser, show
from benchmarks.sae.peers import ROOT, missing, python_of
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.interchange import read, write

LIBRARIES = {"sae-lens": "saelens", "eai-sparsify": "sparsify"}
"""Their names, and those of their formats."""
ALLOWED = 1e-5
SMALL = (8, 24, 16)
"""Width, latents and rows of the fixtures."""


def ours(format: str, width: int, n: int) -> dict[str, SAE]:
    """SAEs of ours with random weights, of each kind that a format holds."""
    made = {}
    for activation in ("topk", "threshold") if format == "saelens" else ("topk",):
        sae = SAE(SAEInfo("batch_topk", width, n, 4, "unet.mid_block", activation), seed=3).requires_grad_(False)
        generator = torch.Generator().manual_seed(4)
        for tensor in (sae.b_enc, sae.b_dec, sae.threshold):
            tensor.normal_(generator=generator).mul_(0.3)
        sae.threshold.abs_()
        made[activation] = sae
    return made


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def figures(name: str, python: Path, sizes: tuple[int, int, int], top: Path) -> Iterator[Figure]:
    """Both ways, for one library; `top` is an empty folder."""
    width, n, count = sizes
    theirs, mine = top / "theirs", top / "mine"
    peer(python, name, "make", theirs, *map(str, sizes))
    for path in sorted(theirs.rglob("expected.safetensors")):
        expected = load_file(path)
        yield from _figures(f"{name} {path.parent.name}, read", read(path.parent).sae, expected)
    mine.mkdir()
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(5))
    save_file({"x": x}, mine / "rows.safetensors")
    made = ours(LIBRARIES[name], width, n)
    for kind, sae in made.items():
        write(sae, mine / kind, LIBRARIES[name])
    peer(python, name, "run", mine)
    for kind, sae in made.items():
        yield from _figures(f"our {kind}, loaded by {name}", sae, load_file(mine / kind / "expected.safetensors"))


def _figures(what: str, sae: SAE, expected: dict[str, torch.Tensor]) -> Iterator[Figure]:
    latents = sae.encode(expected["x"])
    if latents.shape[1] == 2 * expected["latents"].shape[1]:
        # Signed ones: the positive halves, then the negative.
        positive, negative = latents.chunk(2, dim=1)
        latents = positive - negative
    pairs = {"latents": latents, "x_hat": sae(expected["x"])}
    for part, found in pairs.items():
        error = difference(found, expected[part])
        yield Figure(f"{what}: {part}", error, "relative", ALLOWED, error / ALLOWED)


def peer(python: Path, *arguments: str | Path) -> None:
    """Run the other half; its last words are ours where it fails."""
    command = [str(python), "-m", "benchmarks.sae.interchange_peer", *map(str, arguments)]
    # No log of theirs, and no look at the hub.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} {arguments[1]}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")


def main() -> int:
    """Check, or write the fixtures."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--width", type=int, default=320)
    arguments.add_argument("--latents", type=int, default=5120)
    arguments.add_argument("--rows", type=int, default=512)
    arguments.add_argument("--fixtures", type=Path, metavar="DIR", help="only write what the tests read")
    options = arguments.parse_args()
    pythons = {name: python_of(name) for name in LIBRARIES}
    found: list[Figure] = []
    for name, python in pythons.items():
        if python is None:
            print(f"{name}: {missing(name)}")
        elif options.fixtures:
            folder = options.fixtures.absolute() / LIBRARIES[name]
            shutil.rmtree(folder, ignore_errors=True)
            peer(python, name, "make", folder, *map(str, SMALL))
            print(f"wrote {folder}")
        else:
            with tempfile.TemporaryDirectory() as scratch:
                found += figures(name, python, (options.width, options.latents, options.rows), Path(scratch))
    if found:
        show(found, options.json)
        worst = max(found, key=lambda f: f.value if f.value is not None else math.inf)
        print(f"largest: {worst.value:.2g} ({worst.name}); allowed {ALLOWED:g}")
    return int(None in pythons.values() or any(f.ratio is None or not f.ratio <= 1 for f in found))


if __name__ == "__main__":
    sys.exit(main())
