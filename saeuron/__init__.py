"""Remove concepts from diffusion models with sparse autoencoders (SAeUron, arXiv 2501.18052), with the evidence.

    pipe = saeuron.load_pipeline("canvas")
    removal = saeuron.Removal.load("workspace/removals/neon.safetensors")
    with removal.attached(pipe):
        image = pipe("An image of cat in neon style.").images[0]

Names are imported on first use, so that `import saeuron` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saeuron.models import load_pipeline
    from saeuron.removal import Removal, removed
    from saeuron.sae import SAE

__version__ = "0.1.0"
__all__ = ["SAE", "Removal", "load_pipeline", "removed"]

_HOME = {
    "SAE": "saeuron.sae",
    "Removal": "saeuron.removal",
    "load_pipeline": "saeuron.models",
    "removed": "saeuron.removal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saeuron' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
