"""What all tests share: no network, Prefect's files in a temporary folder, one thread, and a tiny pipeline."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import saeuron  # noqa: F401  Before torch: it sets how torch's threads wait.

# Before anything can import Prefect or the hub client: both read these once.
_HOME = tempfile.mkdtemp(prefix="saeuron-prefect-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["PREFECT_HOME"] = _HOME
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.end_to_end.sharing import SHARED  # noqa: E402
from tests.s3_server import Server, serving  # noqa: E402

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Kernels for GPUs are run by an interpreter; Triton, which torch has not imported yet, asks for this once.
    os.environ["TRITON_INTERPRET"] = "1"

# No deadline: the machine that runs the tests may be busy. No database and no chance: a run leaves nothing behind and
# the next one tries the same examples.
settings.register_profile("saeuron", deadline=None, max_examples=25, database=None, derandomize=True)
settings.load_profile("saeuron")


LONGEST = (
    # First a file that needs nothing of what the next one makes for all, such as Prefect's database, and would wait.
    "storage/catalog/test_attacks.py",
    "end_to_end/test_schedule.py",
    "end_to_end/test_resume.py",
    "end_to_end/test_documentation.py",
    "end_to_end/test_explore_browser.py",
    "end_to_end/test_families.py",
    "end_to_end/test_given_saes.py",
    "end_to_end/test_object_store.py",
    "end_to_end/test_leave_out.py",
    "end_to_end/test_controls.py",
    "end_to_end/test_pipeline.py",
    "tasks/test_fit.py",
    "saeuron/sae/test_triton_kernels.py",
    "end_to_end/test_concepts.py",
    "benchmarks/test_kernels.py",
    "end_to_end/test_extending.py",
    "end_to_end/test_audit.py",
    "faults/test_damage.py",
    "storage/catalog/test_query.py",
)
"""Files that take longest. They come first, so that no process works at one of them alone when the rest is done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    # That of each of xdist's workers lies in one that they have in common.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    request.config.stash[SHARED] = common / "shared"
    request.config.stash[SHARED].mkdir(exist_ok=True)


@pytest.fixture(scope="session")
def make_pipe() -> Callable[..., Any]:
    """A factory of tiny untrained canvas pipelines, for tests that change theirs; the same seed, the same weights."""
    from saeuron.canvas.model import Architecture, build_pipeline

    def make(seed: int = 0) -> Any:
        architecture = Architecture(channels=(16, 32), groups=8, heads=2, text_width=32, text_layers=1)
        pipe = build_pipeline(architecture, seed=seed)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def tiny_pipe(make_pipe: Callable[..., Any]) -> Any:
    """One such pipeline for the whole session: leave it as you found it."""
    return make_pipe()


@pytest.fixture(scope="session")
def tiny_model_folder(make_pipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as a folder that `load_pipeline` reads: copy it before you change it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    make_pipe().save_pretrained(folder, safe_serialization=True)
    return folder


_ELSEWHERE = """
import hashlib, json, sys
from saeuron.pipelines.loading import load_pipeline
pipe = load_pipeline(sys.argv[1])
from saeuron.canvas.model import build_tokenizer
print(json.dumps({
    "vae": type(pipe.vae).__name__,
    "channels": pipe.unet.config.block_out_channels,
    "tokenizer": hashlib.sha256(build_tokenizer(16).backend_tokenizer.to_str().encode()).hexdigest(),
}))
"""


@pytest.fixture(scope="session")
def fresh_process(tiny_model_folder: Path) -> Any:
    """What another process, with another hash seed, makes of the tiny model; one for all tests: it takes seconds."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", _ELSEWHERE, str(tiny_model_folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """An S3 server for the session, with the bucket `tests`; whoever pauses it resumes it."""
    with serving() as server:
        server.bucket("tests")
        yield server
