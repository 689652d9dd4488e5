"""The interface of a pipeline family.

The defaults hold for a pipeline with one denoiser, one text encoder and classifier-free guidance by a doubled batch,
[unconditional rows, conditional rows]. A family overrides what differs.
"""

import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from saeuron.errors import ConfigError, SaeuronError
from saeuron.noise import generator

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
    optional: ClassVar[frozenset[str]] = frozenset()
    """Text encoders that its pipelines may be saved without."""
    tokens: ClassVar[int | None] = None
    """Tokens of a prompt that the pipeline reads at most, where its tokenizers would take more."""
    per_prompt: ClassVar[frozenset[str]] = frozenset({"negative_prompt"})
    """Arguments of the pipeline's call that take one text per prompt."""
    doubles: ClassVar[bool] = True
    """Whether guidance doubles the denoiser's batch; otherwise there is no unconditional half."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `from_pretrained`, such as those that leave out parts that change finished images."""
    literature: ClassVar[tuple[tuple[str, int, str], ...]] = ()
    """(end of a hookpoint's path, its width, who edits there) of places that papers name, for models of that width."""
    text_enters: ClassVar[str] = ".attn2"
    """How paths of the modules end by which the image's positions read the text."""
    place: ClassVar[int] = 1
    """Index of the timestep among the arguments of the denoiser's `forward`."""
    near: ClassVar[float] = 2
    """The most that rounding to half precision may move a timestep."""

    def load(self, source: Path, dtype: torch.dtype) -> Any:
        """Load a folder, on the CPU, from safetensors. Any exception means that it cannot be loaded."""
        import diffusers

        kind: Any = getattr(diffusers, self.name)
        variant = _variant(source, self.root)
        return kind.from_pretrained(source, dtype=dtype, use_safetensors=True, variant=variant, **self.options)

    def samples_with(self, scheduler: type) -> bool:
        """Whether pipelines of this family can be sampled with such a scheduler."""
        return hasattr(scheduler, "scale_model_input")

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
        """The device that the denoiser runs on; the CPU if it has no weights.

        Offloaded weights lie elsewhere between its calls: accelerate's hooks know where they are brought.
        """
        net = self.denoiser(pipe)
        for module in net.modules():
            where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if where is not None:
                return torch.device(where)
        return next(net.parameters(), torch.empty(0, device="cpu")).device

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
        return torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[self.place]).flatten()

    def index(self, pipe: Any, timestep: float) -> int:
        """The step of a timestep in the generation, from 0; -1 if it is not in the scheduler's list.

        A timestep may be a fraction, and rounded to half precision on its way: the nearest one is taken. Some
        schedulers call the denoiser twice at one timestep (PNDM, Heun); then their own counter decides.
        """
        away = (pipe.scheduler.timesteps - timestep).abs()
        found = ((away == away.min()) & (away <= self.near)).nonzero().flatten().tolist()
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

    def batch(self, pipe: Any, call: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[bool, Rows]:
        """Whether this batch of the denoiser is guided, and the half that it belongs to if it is not.

        Args:
            pipe: the pipeline that calls the denoiser.
            call: the variables of that pipeline's call.
            kwargs: the keyword arguments of the denoiser.
        """
        del call, kwargs
        return self.guided(pipe), "conditional"

    def text_rows(self, arguments: Mapping[str, Any]) -> tuple[Rows, ...]:
        """The halves that each text encoder is called for in one `encode_prompt`, in order.

        Args:
            arguments: those of `encode_prompt`, by name.
        """
        given = arguments.get("prompt_embeds") is not None
        return ("unconditional",) if given else ("conditional", "unconditional")

    def stream(self, module: nn.Module, output: Any) -> Tensor:
        """The image stream of a module's output: the output itself, or one entry of a tuple or output record."""
        entry = self.entry(module)
        tensor = output if isinstance(output, Tensor) else output[entry]
        if not isinstance(tensor, Tensor):
            place = "first" if entry == 0 else f"at index {entry}"
            raise SaeuronError(f"a hooked module returned {type(tensor).__name__}; expected a tensor {place}.")
        return tensor

    def entry(self, module: nn.Module) -> int:
        """The index of the image stream where a module returns several tensors."""
        del module
        return 0

    def with_stream(self, module: nn.Module, output: Any, tensor: Tensor) -> Any:
        """The output with its image stream replaced."""
        if isinstance(output, Tensor):
            return tensor
        if isinstance(output, tuple):
            entry = self.entry(module)
            return (*output[:entry], tensor, *output[entry + 1 :])
        return type(output)(**{**output, next(iter(output)): tensor})

    def sides(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """(H, W) of latents at the default size, from the denoiser's configuration."""
        size = config["sample_size"]
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def channels(self, config: Mapping[str, Any]) -> int:
        """Channels of latents, from the denoiser's configuration."""
        return int(config["in_channels"])

    def patch(self, config: Mapping[str, Any]) -> int:
        """Latent pixels on a side of what the denoiser sees as one position, from its configuration."""
        return int(config.get("patch_size") or 1)

    def latent_shape(self, pipe: Any, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """(C, H, W) of one image's latents.

        Args:
            size: (height, width) of the image in pixels; None: the pipeline's default.
        """
        net: Any = self.denoiser(pipe)
        config = net.config
        sides = self.sides(config) if size is None else tuple(side // pipe.vae_scale_factor for side in size)
        return self.channels(config), int(sides[0]), int(sides[1])

    def check_steps(self, pipe: Any, steps: int) -> None:
        """Raise ConfigError for a number of steps that the pipeline cannot take with its scheduler."""
        scheduler = getattr(pipe, "scheduler", None)
        most = getattr(getattr(scheduler, "config", None), "num_train_timesteps", steps)
        if steps > most:
            raise ConfigError(f"{steps} steps are more than the scheduler of this model has; take at most {most}.")

    def start(self, pipe: Any, noise: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline's call to start from this noise, float32 [b, C, H, W], at its size.

        Some schedulers draw more noise at each step (Euler ancestral, LCM). It belongs to the image too: each has a
        generator of its own, whose seed is a hash of its initial noise.
        """
        net: Any = self.denoiser(pipe)
        step = getattr(getattr(pipe, "scheduler", None), "step", None)
        draws = step is not None and "generator" in inspect.signature(step).parameters
        each = (
            [generator("steps", hashlib.sha256(z.numpy().tobytes()).hexdigest()) for z in noise.cpu()] if draws else []
        )
        return ({"generator": each} if draws else {}) | {
            "latents": noise.to(device=self.device(pipe), dtype=net.dtype),
            "height": noise.shape[2] * pipe.vae_scale_factor,
            "width": noise.shape[3] * pipe.vae_scale_factor,
        }

    def encode_images(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Clean latents z [b, C, H, W] of uint8 images [b, H, W, 3], in the denoiser's dtype and on its device."""
        config, pixels = pipe.vae.config, pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        return (self._encode(pipe, pixels) - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def _encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        """The VAE's latents of float32 pixels [b, 3, H, W] in [-1, 1], before they are scaled."""
        net: Any = self.denoiser(pipe)
        mode: Tensor = pipe.vae.encode(pixels.to(device=self.device(pipe), dtype=net.dtype)).latent_dist.mode()
        return mode

    @abstractmethod
    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        """Arguments of the denoiser for one image with latents of this size, on the meta device, to see shapes.

        Args:
            config: the denoiser's configuration.
        """

    @abstractmethod
    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        """Keyword arguments of the denoiser for these prompts, with the rows of a guided batch if it is guided.

        Args:
            negative: the text of the unconditional half; ignored where the batch is not guided.
        """

    @abstractmethod
    def add_noise(self, pipe: Any, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Latents z_t, as the denoiser expects them, from clean latents and noise, all [b, C, H, W]."""

    @abstractmethod
    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        """Predicted noise [rows, C, H, W] for latents z_t [b, C, H, W]; rows is 2b in a guided batch.

        Args:
            prompts: the result of `encode_prompt`.
        """


_SHARD = re.compile(r"-\d+-of-\d+")


def _variant(source: Path, root: str) -> str | None:
    """The variant of a model, such as `fp16`, if its denoiser is there in no other: its files are named after it."""
    names = [_SHARD.sub("", path.name).split(".") for path in (source / root).glob("*.safetensors")]
    variants = sorted({name[1] if len(name) > 2 else "" for name in names})
    return variants[0] or None if variants else None
