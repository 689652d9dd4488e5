"""Remove concepts from diffusion models with sparse autoencoders (SAeUron, arXiv 2501.18052), with the evidence.

    pipe = saeuron.load_pipeline("canvas")
    removal = saeuron.Removal.load("workspace/removals/neon.saeuron.safetensors")
    with removal.attached(pipe) as call:
        image = pipe("An image of cat in neon style.", **call).images[0]

Names are imported on first use, so that `import saeuron` is quick.

    config.py      one frozen configuration per stage
    schema.py      the base class of configurations
    errors.py      the tree of exceptions
    prompts.py     prompt sets from templates and files
    noise.py       seeded random numbers of an image
    generation.py  images for (prompt, index) pairs
    hooks.py       hookpoints: read and edit a module's output
    capture.py     activations, collected while images are generated
    scoring.py     statistics and scores of latents
    profiles.py    the statistics that a removal needs
    evaluation.py  the test prompts and images of an evaluation
    tuning.py      the search for a removal's settings
    metrics.py     UA, IRA, CRA with ceilings and intervals
    checkpoint.py  tensors and numbers in one safetensors file
    threads.py     the wait policy of torch's threads, set before torch is imported
    files.py       write files atomically
    quiet.py       suppress output of libraries that load models
    pipelines/     one file per family of diffusion pipelines
    sae/           sparse autoencoders
    methods/       ways to remove a concept
    judges/        judges of images: canvas, CLIP, none
    pages/         HTML pages and pictures
    canvas/        the model that ships with the project
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saeuron import threads

if TYPE_CHECKING:
    from saeuron.methods.removal import Removal, removed
    from saeuron.pipelines.loading import load_pipeline
    from saeuron.sae.autoencoder import SAE

threads.wait_passively()

__version__ = "0.1.0"
__all__ = ["SAE", "Removal", "load_pipeline", "removed"]

_HOME = {
    "SAE": "saeuron.sae.autoencoder",
    "Removal": "saeuron.methods.removal",
    "load_pipeline": "saeuron.pipelines.loading",
    "removed": "saeuron.methods.removal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saeuron' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
