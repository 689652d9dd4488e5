"""The interface of a pipeline family.

The defaults hold for a pipeline with one denoiser, one text encoder and classifier-free guidance by a doubled batch,
[unconditional rows, conditional rows]. A family overrides what differs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from saeuron.errors import SaeuronError

Rows = Literal["conditional", "unconditional"]


def _inner(module: Any) -> Any:
    """The module that `torch.compile` wrapped; another as it is."""
    return getattr(module, "_orig_mod", module)


class Family(ABC):
    """One family of diffusers pipelines. It has no state: the pipeline is an argument."""

    name: ClassVar[str]
    """The class name in model_index.json, such as `StableDiffusionPipeline`."""
    root: ClassVar[str] = "unet"
    """The denoiser's attribute, and the first word of its hookpoints."""
    text_roots: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """The text encoders' attributes. A pipeline may lack some of them."""
    per_prompt: ClassVar[frozenset[str]] = frozenset({"negative_prompt"})
    """Arguments of the pipeline's call that take one text per prompt."""

    @abstractmethod
    def load(self, source: Path | str, dtype: torch.dtype) -> Any:
        """Load a folder or hub id, on the CPU, from safetensors. Any exception means that it cannot be loaded."""

    def prepare(self, pipe: Any, device: torch.device) -> None:
        """Prepare a loaded pipeline after it was moved to its device; does nothing by default."""
        return

    def denoiser(self, pipe: Any) -> nn.Module:
        """The denoising network.

        Raises:
            SaeuronError: the pipeline has none.
        """
        module = _inner(getattr(pipe, self.root, None))
        if not isinstance(module, nn.Module):
            raise SaeuronError(f"{type(pipe).__name__} has no {self.root}; expected a loaded {self.name}.")
        return module

    def device(self, pipe: Any) -> torch.device:
        """The device of the denoiser's weights; the CPU if it has none."""
        return next(self.denoiser(pipe).parameters(), torch.empty(0, device="cpu")).device

    def roots(self, pipe: Any) -> dict[str, nn.Module]:
        """The networks whose modules are hookpoints, by attribute, the denoiser first."""
        text = {name: _inner(getattr(pipe, name, None)) for name in self.text_roots}
        return {self.root: self.denoiser(pipe)} | {n: m for n, m in text.items() if isinstance(m, nn.Module)}

    def worth_naming(self, path: str) -> bool:
        """Whether people usually choose this hookpoint: messages suggest such ones first."""
        del path
        return True

    def timesteps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The scheduler's timestep, from the arguments of a call of the denoiser: [1], or [B] with one for each row."""
        return torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]).flatten()

    def index(self, pipe: Any, timestep: float) -> int:
        """The step of a timestep in the generation, from 0; -1 if it is not in the scheduler's list.

        A timestep may be a fraction, and rounded to half precision on its way: the nearest within 2 is taken. Some
        schedulers call the denoiser twice at one timestep (PNDM, Heun); then their own counter decides.
        """
        away = (pipe.scheduler.timesteps - timestep).abs()
        found = ((away == away.min()) & (away <= 2)).nonzero().flatten().tolist()
        if len(found) > 1:
            for name in ("step_index", "counter"):
                count = getattr(pipe.scheduler, name, None)
                if count is not None and int(count) in found:
                    return int(count)
        return int(found[0]) if found else -1

    def guided(self, pipe: Any) -> bool:
        """Whether the denoiser's batch is [unconditional rows, conditional rows]; otherwise all are conditional.

        False for a pipeline that has not been called yet.
        """
        return bool(getattr(pipe, "do_classifier_free_guidance", False))

    def text_rows(self, arguments: Mapping[str, Any]) -> tuple[Rows, ...]:
        """The halves that each text encoder is called for in one `encode_prompt`, in order.

        Args:
            arguments: those of `encode_prompt`, by name.
        """
        given = arguments.get("prompt_embeds") is not None
        return ("unconditional",) if given else ("conditional", "unconditional")

    def stream(self, module: nn.Module, output: Any) -> Tensor:
        """The image stream of a module's output: the output itself, or the first entry of a tuple or output record."""
        del module
        tensor = output if isinstance(output, Tensor) else output[0]
        if not isinstance(tensor, Tensor):
            raise SaeuronError(f"a hooked module returned {type(tensor).__name__}; expected a tensor first.")
        return tensor

    def with_stream(self, module: nn.Module, output: Any, tensor: Tensor) -> Any:
        """The output with its image stream replaced."""
        del module
        if isinstance(output, Tensor):
            return tensor
        if isinstance(output, tuple):
            return (tensor, *output[1:])
        return type(output)(**{**output, next(iter(output)): tensor})

    @abstractmethod
    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        """(C, H, W) of one image's latents at the pipeline's default size."""

    @abstractmethod
    def start(self, pipe: Any, noise: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline's call to start from this noise, float32 [b, C, H, W], at its size."""

    @abstractmethod
    def encode_prompt(self, pipe: Any, texts: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments of the denoiser for these prompts, with the rows of a guided batch if it is guided."""

    @abstractmethod
    def encode_images(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Clean latents z [b, C, H, W] of uint8 images [b, H, W, 3], in the denoiser's dtype and on its device."""

    @abstractmethod
    def add_noise(self, pipe: Any, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Latents z_t, as the denoiser expects them, from clean latents and noise, all [b, C, H, W]."""

    @abstractmethod
    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        """Predicted noise [rows, C, H, W] for latents z_t [b, C, H, W]; rows is 2b in a guided batch.

        Args:
            prompts: the result of `encode_prompt`.
        """
