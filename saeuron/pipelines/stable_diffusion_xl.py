"""SDXL: a UNet that also takes pooled text and image sizes, two text encoders. Turbo runs without guidance."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.pipelines.stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`."""

    name = "StableDiffusionXLPipeline"
    text_roots = ("text_encoder", "text_encoder_2")
    literature = tuple(
        (f"unet.{place}", 1280, "sdxl-unbox (2410.22366)")
        for place in (
            "down_blocks.2.attentions.1",
            "mid_block.attentions.0",
            "up_blocks.0.attentions.0",
            "up_blocks.0.attentions.1",
        )
    )
    per_prompt = frozenset({"negative_prompt", "negative_prompt_2", "prompt_2"})
    # The default watermark depends on whether an optional package is installed.
    options: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}

    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        sizes, pooled = 6 * config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
        added = {
            "text_embeds": torch.empty(1, pooled - sizes, device="meta"),
            "time_ids": torch.empty(1, 6, device="meta"),
        }
        return super().probe(config, height, width) | {"added_cond_kwargs": added}

    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        guided, device = self.guided(pipe), self.device(pipe)
        # Without a text the pipeline may take zeros, which are not the states of the empty text.
        told = [negative] * len(texts) if negative else None
        positive, other, pooled, other_pooled = pipe.encode_prompt(
            list(texts), device=device, do_classifier_free_guidance=guided, negative_prompt=told
        )
        size = tuple(side * pipe.vae_scale_factor for side in self.latent_shape(pipe)[1:])
        # Original size, top left corner of the crop, target size: the defaults of the pipeline's call.
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=positive.dtype, device=device)
        words = torch.cat([other, positive]) if guided else positive
        pooled = torch.cat([other_pooled, pooled]) if guided else pooled
        added = {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)}
        return {"encoder_hidden_states": words, "added_cond_kwargs": added}

    def encode_images(self, pipe: Any, pictures: Tensor) -> Tensor:
        z, config = super().encode_images(pipe, pictures), pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return z
        shift, scale = (torch.tensor(v, dtype=z.dtype, device=z.device).view(1, -1, 1, 1) for v in (mean, std))
        return (z - shift * config.scaling_factor) / scale

    def _encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Encode in float32 if the VAE overflows in float16; the pipeline decodes in the same way."""
        if not (pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast):
            return super()._encode(pipe, pixels)
        pipe.vae.to(torch.float32)
        try:
            z = pipe.vae.encode(pixels.to(self.device(pipe))).latent_dist.mode()
        finally:
            pipe.vae.to(torch.float16)
        return z.to(pipe.unet.dtype)
