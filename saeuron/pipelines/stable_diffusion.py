"""Stable Diffusion 1.x and 2.x, and canvas: a UNet and one CLIP text encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import SaeuronError
from saeuron.pipelines.base import Family

_SMALL = 16
"""Latents up to this side count as canvas-sized."""


class StableDiffusion(Family):
    """`StableDiffusionPipeline`, with any prediction type of a variance-preserving process."""

    name = "StableDiffusionPipeline"
    literature: ClassVar[tuple[tuple[str, int, str], ...]] = (
        ("unet.up_blocks.1.attentions.1", 1280, "SAeUron, objects (2501.18052)"),
        ("unet.up_blocks.1.attentions.2", 1280, "SAeUron, styles (2501.18052)"),
        ("layers.8", 768, "Interpret-then-Deactivate (2503.09446)"),
    )
    options: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}

    def load(self, source: Path, dtype: torch.dtype) -> Any:
        # Canvas's model_index.json names this module; diffusers finds it after the import.
        import saeuron.canvas.vae  # noqa: F401

        return super().load(source, dtype)

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
        return parts[-2] == "attentions" or parts[-1] == "attn2"

    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        return {
            "sample": torch.empty(1, config["in_channels"], height, width, device="meta"),
            "timestep": torch.empty(1, device="meta"),
            "encoder_hidden_states": torch.empty(1, 77, config["cross_attention_dim"], device="meta"),
        }

    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        guided = self.guided(pipe)
        positive, other = pipe.encode_prompt(list(texts), self.device(pipe), 1, guided, [negative] * len(texts))
        return {"encoder_hidden_states": torch.cat([other, positive]) if guided else positive}

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
