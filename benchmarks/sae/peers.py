"""The libraries that `sae_step` compares with, each in its own environment, because they need different versions.

    python -m benchmarks.sae.peers setup [NAME...]    make .peers/NAME, up to 500 MB each
    python -m benchmarks.sae.peers list               what there is

Versions are pinned, dependencies by name: only what the import and the training step need. torch and numpy are linked
from this environment, so that all contestants run the same builds. A contestant is a process that speaks
`benchmarks.sae.adapters.protocol`.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from benchmarks.sae.adapters.protocol import Setup

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".peers"
SHARED = ("torch", "numpy")


@dataclass(frozen=True)
class Peer:
    """A library to compare with."""

    requirement: str
    """The library, pinned; installed without its dependencies."""
    needs: str
    """Packages that its import and training step need beside torch and numpy, pinned."""
    adapter: str
    """Module in `benchmarks.sae.adapters`."""


_HUB = (
    "huggingface_hub==2.4.0 httpx2==2.16.2 httpcore2==2.16.2 h11==0.16.0 idna==3.20 truststore==0.10.5 tqdm==4.70.1 "
    "pyyaml==6.0.3 packaging==26.3 safetensors==0.8.0"
)
_DATASETS = (
    "datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 python-dateutil==2.9.0.post0 six==1.17.0 dill==0.4.1 "
    "multiprocess==0.70.19 xxhash==4.1.0"
)
_TRANSFORMERS = "transformers==5.23.0 tokenizers==0.23.3 regex==2026.11.15"

PEERS = {
    "sae-lens": Peer(
        "sae-lens==6.54.12",
        f"{_HUB} {_DATASETS} {_TRANSFORMERS} einops==0.8.2 simple-parsing==0.1.9 docstring-parser==0.18.0 "
        "transformer-lens==3.9.0 jaxtyping==0.3.11 better-abc==0.0.3 rich==15.0.0 "
        "requests==2.34.2 urllib3==2.8.0 certifi==2026.10.18 charset-normalizer==3.5.2 "
        "wandb==0.31.0 click==8.5.1 platformdirs==4.14.5 protobuf==7.36.2 pydantic==2.14.3 pydantic-core==2.50.4 "
        "typing-inspection==0.4.5 annotated-types==0.8.0 opentelemetry-api==1.45.2",
        "sae_lens",
    ),
    "eai-sparsify": Peer(
        "eai-sparsify==1.3.3",
        f"{_HUB} {_DATASETS} {_TRANSFORMERS} einops==0.8.2 simple-parsing==0.1.9 docstring-parser==0.18.0 "
        "accelerate==1.15.0 natsort==8.4.0 schedulefree==1.4.1",
        "eai_sparsify",
    ),
    "dictionary-learning": Peer("dictionary-learning==0.1.0", "einops==0.8.2", "dictionary_learning"),
    "overcomplete": Peer(
        "overcomplete==0.3.0",
        "einops==0.8.2 scipy==1.17.1 scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0 cloudpickle==3.1.2 "
        "narwhals==2.28.0 pillow==13.0.0 tqdm==4.70.1",
        "overcomplete",
    ),
}


class ContestantFailed(Exception):
    """A contestant could not start, or stopped; the message says why, in one line."""


class Turn(NamedTuple):
    """Duration of some training steps."""

    seconds: float
    """Wall-clock."""
    cpu: float
    """CPU seconds of all threads; depends little on other work of the machine."""


class Contestant:
    """A running adapter. Starting it returns at once; the first `ask` waits until its trainer is ready."""

    def __init__(self, python: Path, adapter: str, setup: Setup) -> None:
        threads = str(setup.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.sae.adapters.{adapter}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._send({"setup": asdict(setup)})
        self._ready = False

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a command, wait for its answer.

        Raises:
            ContestantFailed: it answered with an error, or ended.
        """
        if not self._ready:
            self._receive()
            self._ready = True
        self._send(message)
        return self._receive()

    def take(self, steps: int) -> Turn:
        """Run its next `steps` training steps."""
        return Turn(**self.ask({"steps": steps}))

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ContestantFailed(self._last_words()) from error

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContestantFailed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"ended with code {code}: {lines[-1] if lines else 'it said nothing'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def python_of(name: str) -> Path | None:
    """The interpreter of a peer's environment; None unless it was set up completely, with the present pins."""
    done = FOLDER / name / "installed.txt"
    if not done.exists() or done.read_text() != _pins(PEERS[name]):
        return None
    return FOLDER / name / "bin" / "python"


def missing(name: str) -> str:
    """The message if `python_of` is None."""
    return f"not set up; run: python -m benchmarks.sae.peers setup {name}"


def set_up(name: str) -> None:
    """Make a peer's environment from scratch, and run one tiny step in it.

    Raises:
        ContestantFailed: pip could not install it, or it does not work.
    """
    peer, folder = PEERS[name], FOLDER / name
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    # Does not follow the links.
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    _link_shared(folder)
    python = folder / "bin" / "python"
    # --ignore-installed: otherwise pip could uninstall packages through the links.
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    found = subprocess.run([*command, *_pins(peer).split()], capture_output=True, text=True, check=False)
    if found.returncode:
        errors = [line for line in found.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise ContestantFailed(errors[0])
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npy"
        np.save(rows, np.random.default_rng(0).standard_normal((2, 32, 16)).astype(np.float16))
        setup = Setup(str(rows), width=16, latents=64, k=4, batch=32, steps=1000, lr=1e-3, seed=0, threads=1)
        with Contestant(python, peer.adapter, setup) as contestant:
            contestant.take(1)
    (folder / "installed.txt").write_text(_pins(peer))


def _pins(peer: Peer) -> str:
    return f"{peer.requirement} {peer.needs}"


def _link_shared(folder: Path) -> None:
    """Link SHARED and what they need from this environment into the one at `folder`."""
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for name in shared():
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def shared() -> set[str]:
    """Names of SHARED and their installed dependencies."""
    found: set[str] = set()
    waiting = list(SHARED)
    while waiting:
        name = waiting.pop()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            # For another platform, by its marker.
            continue
        if name not in found:
            found.add(name)
            waiting += [re.split(r"[^\w.-]", need)[0].lower() for need in needs if "extra ==" not in need]
    return found


def main() -> int:
    """Set up or list peers; 0 if all of them are ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; default all")
    options = parser.parse_args()
    check_names(parser, options.names)
    failures = 0
    for name in options.names or PEERS:
        reason = ""
        if options.command == "setup":
            try:
                set_up(name)
            except ContestantFailed as error:
                reason = f"failed: {error}"
        elif python_of(name) is None:
            reason = missing(name)
        failures += bool(reason)
        print(f"{PEERS[name].requirement:28}  {reason or 'ready'}", flush=True)
    return int(failures > 0)


def check_names(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """End with a usage error, code 2, for an unknown name."""
    for name in names:
        if name not in PEERS:
            near = get_close_matches(name, PEERS, n=1, cutoff=0)[0]
            parser.error(f"no peer is called {name}; did you mean {near}? There are {', '.join(PEERS)}")


if __name__ == "__main__":
    sys.exit(main())
