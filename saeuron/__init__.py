"""Remove concepts from diffusion models with sparse autoencoders (SAeUron, arXiv 2501.18052), with the evidence.

    pipe = saeuron.load_pipeline("canvas")
    removal = saeuron.Removal.load("workspace/removals/neon.saeuron.safetensors")
    with removal.attached(pipe) as call:
        image = pipe("An image of cat in neon style.", **call).images[0]

Names are imported on first use, so that `import saeuron` is quick.

    config.py      one frozen configuration per stage
    errors.py      the tree of exceptions
    noise.py       seeded random numbers of an image
    generation.py  images for (prompt, index) pairs
    memory.py      smaller batches where memory is full
    hooks.py       hookpoints: read and edit a module's output
    capturing.py   activations, collected while images are generated
    scoring.py     statistics and scores of latents
    profiles.py    the statistics that a removal needs
    evaluation.py  the test prompts and images of an evaluation
    tuning.py      the search for a removal's settings
    notebook.py    the whole method in five calls, and a latent as a picture, without a workspace
    checkpoint.py  tensors and numbers in one safetensors file
    threads.py     how torch's threads wait and memory is kept, set before torch is imported
    files.py       write files atomically
    quiet.py       suppress output of libraries that load models
    installed.py   what installed packages add: methods, judges, families
    prompts/       prompt sets from templates, files and benchmarks
    pipelines/     one file per family of diffusion pipelines
    sae/           sparse autoencoders
    methods/       ways to remove a concept
    judges/        judges of images: canvas, CLIP, none
    attacks/       ways to get a removed concept back
    extractors/    features that Frechet distances are of
    figures/       what judged images say of a removal
    inspection/    where a concept passes in a model
    blindspots/    what a model draws too rarely or too often beside real pictures
    pages/         HTML pages and pictures
    canvas/        the models that ship with the project
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saeuron import threads

if TYPE_CHECKING:
    from saeuron import judges, methods
    from saeuron.config import ModelConfig
    from saeuron.methods.base import Evidence
    from saeuron.methods.removal import Removal, removed
    from saeuron.notebook import capture, evaluate, score, top_images, train, tune
    from saeuron.pipelines.loading import load_pipeline
    from saeuron.prompts import prompt_set
    from saeuron.sae.autoencoder import SAE

threads.wait_passively()
threads.keep_freed_memory()

__version__ = "0.1.0"
__all__ = [
    "SAE",
    "Evidence",
    "ModelConfig",
    "Removal",
    "capture",
    "evaluate",
    "judges",
    "load_pipeline",
    "methods",
    "prompt_set",
    "removed",
    "score",
    "top_images",
    "train",
    "tune",
]

_HOME = {
    "SAE": "saeuron.sae.autoencoder",
    "Evidence": "saeuron.methods.base",
    "ModelConfig": "saeuron.config",
    "Removal": "saeuron.methods.removal",
    "capture": "saeuron.notebook",
    "evaluate": "saeuron.notebook",
    "load_pipeline": "saeuron.pipelines.loading",
    "prompt_set": "saeuron.prompts",
    "removed": "saeuron.methods.removal",
    "score": "saeuron.notebook",
    "top_images": "saeuron.notebook",
    "train": "saeuron.notebook",
    "tune": "saeuron.notebook",
}
"""{name: its module}. No name may be that of a module of the package, whose import would replace it."""


def __getattr__(name: str) -> Any:
    if name in ("judges", "methods"):
        return import_module(f"saeuron.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'saeuron' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "__doc__"})
