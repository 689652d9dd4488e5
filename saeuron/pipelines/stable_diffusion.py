"""Stable Diffusion 1.x and 2.x, and canvas: a UNet and one CLIP text encoder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from saeuron.errors import SaeuronError
from saeuron.pipelines.base import Family

_SHARD = re.compile(r"-\d+-of-\d+")
_SMALL = 16
"""Latents up to this side count as canvas-sized."""


class StableDiffusion(Family):
    """`StableDiffusionPipeline`, with any prediction type of a variance-preserving process."""

    name = "StableDiffusionPipeline"
    options: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    """Arguments of `from_pretrained`: leave out parts that change finished images."""

    def load(self, source: Path | str, dtype: torch.dtype) -> Any:
        import diffusers

        # Canvas's model_index.json names this module; diffusers finds it after the import.
        import saeuron.canvas.vae  # noqa: F401

        pipeline: Any = getattr(diffusers, self.name)
        return pipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, variant=_variant(source), **self.options
        )

    def prepare(self, pipe: Any, device: torch.device) -> None:
        if device.type != "cpu":
            return
        pipe.unet.to(memory_format=torch.channels_last)
        if max(self.latent_shape(pipe)[1:]) <= _SMALL:
            from diffusers.models.attention_processor import AttnProcessor

            # Measured: at canvas's sizes the plain processor is faster than scaled_dot_product_attention on CPU.
            pipe.unet.set_attn_processor(AttnProcessor())

    def worth_naming(self, path: str) -> bool:
        """Attention blocks of the UNet and their cross-attentions; layers of the text encoders."""
        parts = path.split(".")
        if parts[0] != self.root:
            return len(parts) > 1 and parts[-2] == "layers"
        return "attentions" in path and (len(parts) <= 5 or parts[-1] == "attn2")

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        config = pipe.unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(width)

    def start(self, pipe: Any, noise: Tensor) -> dict[str, Any]:
        return {
            "latents": noise.to(device=self.device(pipe), dtype=pipe.unet.dtype),
            "height": noise.shape[2] * pipe.vae_scale_factor,
            "width": noise.shape[3] * pipe.vae_scale_factor,
        }

    def encode_prompt(self, pipe: Any, texts: Sequence[str]) -> dict[str, Any]:
        guided = self.guided(pipe)
        positive, negative = pipe.encode_prompt(list(texts), self.device(pipe), 1, guided)
        return {"encoder_hidden_states": torch.cat([negative, positive]) if guided else positive}

    def encode_images(self, pipe: Any, pictures: Tensor) -> Tensor:
        return self._encode(pipe, _pixels(pictures)) * pipe.vae.config.scaling_factor

    def _encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        return pipe.vae.encode(pixels.to(device=self.device(pipe), dtype=pipe.unet.dtype)).latent_dist.mode()

    def add_noise(self, pipe: Any, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """sqrt(a) z + sqrt(1 - a) eps, with a = the scheduler's cumulative alpha.

        The scheduler's own `add_noise` is not used, because some schedulers scale latents differently from the UNet.
        """
        a = pipe.scheduler.alphas_cumprod[timestep].to(device=clean.device, dtype=clean.dtype)
        return a**0.5 * clean + (1 - a) ** 0.5 * noise

    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        rows = torch.cat([noised, noised]) if self.guided(pipe) else noised
        prediction = pipe.unet(rows, timestep, **prompts, return_dict=False)[0]
        return predicted_noise(prediction, rows, pipe.scheduler, timestep)


def _variant(source: Path | str) -> str | None:
    """The variant of a model, such as `fp16`, if its denoiser is there in no other: its files are named after it."""
    if not Path(source).is_dir():
        try:
            source = snapshot_download(str(source), local_files_only=True)
        except OSError:
            return None  # not here yet; diffusers takes the plain files
    names = [_SHARD.sub("", path.name).split(".") for path in Path(source, "unet").glob("*.safetensors")]
    variants = sorted({name[1] if len(name) > 2 else "" for name in names})
    return variants[0] or None if variants else None


def _pixels(pictures: Tensor) -> Tensor:
    """float32 [b, 3, H, W] in [-1, 1], from uint8 [b, H, W, 3]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def predicted_noise(prediction: Tensor, noised: Tensor, scheduler: Any, timestep: int) -> Tensor:
    """Noise eps from a denoiser's output [B, C, H, W] at z_t, for every prediction type.

    With a = the scheduler's cumulative alpha: eps itself; from v (2202.00512) sqrt(a) v + sqrt(1 - a) z_t; from the
    clean image z, (z_t - sqrt(a) z) / sqrt(1 - a).

    Raises:
        SaeuronError: the scheduler has another prediction type.
    """
    a = float(scheduler.alphas_cumprod[timestep])
    match scheduler.config.prediction_type:
        case "epsilon":
            return prediction
        case "v_prediction":
            return a**0.5 * prediction + (1 - a) ** 0.5 * noised
        case "sample":
            return (noised - a**0.5 * prediction) / (1 - a) ** 0.5
    raise SaeuronError(
        f"the scheduler's prediction_type is {scheduler.config.prediction_type!r}; expected epsilon, v_prediction or "
        "sample: the denoising loss of other types is unknown."
    )
