"""The Inception network that published Frechet distances are of (1512.00567, as TensorFlow's FID graph of 2015 has it).

Weights are a local safetensors file, made of the checkpoint that pytorch-fid and torch-fidelity share
(pt_inception-2015-12-05-6726825d.pth, weights-inception-2015-12-05-6726825d.pth) by

    saeuron inception CHECKPOINT.pth --out inception.safetensors

Features are the 2,048 numbers after the last pooling. Images are resized as clean-fid does (2104.11222): each channel
as float32 by Pillow's bicubic filter to 299 x 299, kept within 0 to 255; then (x - 128) / 128. Average pooling inside
blocks does not count the padding, and the last block's pooling branch takes the maximum: both are the graph's own.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import BadModel, ConfigError
from saeuron.files import sha256

if TYPE_CHECKING:
    from saeuron.extractors.network import Network

CHECKPOINT = "pt_inception-2015-12-05-6726825d.pth"
_BATCH = 32
"""Images per forward pass."""
_PREPROCESSING = "pool 2048, bicubic 299 x 299 as clean-fid"


class Inception:
    """The extractor `inception:FILE`.

    Raises:
        ConfigError: no file is given, or it is a pickle.
        BadModel: there is no such file.
    """

    def __init__(self, argument: str, device: str = "cpu") -> None:
        if not argument:
            raise ConfigError("features: inception needs a file of weights; expected inception:FILE.safetensors.")
        self._file, self._device = Path(argument).expanduser(), device
        how = "saeuron inception CHECKPOINT.pth --out FILE.safetensors"
        if self._file.suffix != ".safetensors":
            raise ConfigError(f"features: {argument} is no .safetensors file; make one of the checkpoint: {how}")
        if not self._file.is_file():
            raise BadModel(f"features: no such file: {argument}; make it of the published checkpoint: {how}")

    @functools.cached_property
    def _content(self) -> str:
        return sha256(self._file)

    @property
    def extractor(self) -> str:
        """The file by content, the layer and the preprocessing."""
        return f"inception-{self._content[:16]}, {_PREPROCESSING}"

    @functools.cached_property
    def _model(self) -> "Network":
        from saeuron.checkpoint import load_tensors
        from saeuron.extractors.network import of_weights

        return of_weights(load_tensors(self._file)[0], self._file).to(self._device)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of images of any size, float32 [B, 2048].

        Raises:
            BadModel: the file holds the weights of another network.
        """
        import torch

        from saeuron.extractors.network import pixels

        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = pixels(images[start : start + _BATCH]).to(self._device)
                found.append(self._model(batch).cpu().numpy())
        return np.concatenate(found)


def convert(checkpoint: Path, out: Path) -> Path:
    """Write a checkpoint of the network as safetensors. Only tensors are read (`weights_only`).

    Raises:
        ConfigError: the name `out` does not end with .safetensors.
        BadModel: the checkpoint cannot be read so, or is of another network.
    """
    import torch

    from saeuron.checkpoint import read_foreign, save_tensors
    from saeuron.extractors.network import of_weights

    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: expected a file name that ends in .safetensors")
    found, origin = read_foreign(checkpoint, CHECKPOINT)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadModel(f"{checkpoint} holds no weights by name; expected {CHECKPOINT}.")
    of_weights(found, checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(out, {name: value.contiguous() for name, value in found.items()}, {"checkpoint_sha256": origin})
    return out
