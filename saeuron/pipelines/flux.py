"""Flux: packed latents, flow matching, CLIP's pooled text, T5's words; guidance is an input (dev) or none (schnell)."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saeuron.pipelines.base import Rows
from saeuron.pipelines.flow import Flow


class Flux(Flow):
    """`FluxPipeline`. A position is a packed patch of 2 x 2 latent pixels.

    `transformer_blocks` and `single_transformer_blocks` give the image's positions. Modules inside a single block see
    the text's positions first, then the image's, in one sequence.
    """

    name = "FluxPipeline"
    text_roots = ("text_encoder", "text_encoder_2")
    tokens = 512
    per_prompt = frozenset({"negative_prompt", "negative_prompt_2", "prompt_2"})
    doubles = False
    near = 5  # its timestep is rounded twice: t to the latents' precision, then t / 1000

    def samples_with(self, scheduler: type) -> bool:
        """Its pipeline gives the scheduler a shift, `mu`, by the image's size."""
        told = inspect.signature(getattr(scheduler, "set_timesteps", dict)).parameters
        return super().samples_with(scheduler) and "mu" in told

    def timesteps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The denoiser is given t / 1000."""
        return (super().timesteps(args, kwargs).float() * 1000).round(decimals=2)

    def guided(self, pipe: Any) -> bool:
        del pipe
        return False

    def batch(self, pipe: Any, call: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[bool, Rows]:
        """The rows of a call. With `true_cfg_scale` each half is a call; embeddings tell them apart."""
        del pipe
        negative = call.get("negative_prompt_embeds")
        mine = negative is not None and kwargs.get("encoder_hidden_states") is negative
        return False, "unconditional" if mine else "conditional"

    def text_rows(self, arguments: Mapping[str, Any]) -> tuple[Rows, ...]:
        del arguments
        return ("conditional",)

    def sides(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Its configuration names no size; the pipeline's own is 128."""
        del config
        return 128, 128

    def channels(self, config: Mapping[str, Any]) -> int:
        return int(config["in_channels"]) // 4

    def patch(self, config: Mapping[str, Any]) -> int:
        del config
        return 2

    def start(self, pipe: Any, noise: Tensor) -> dict[str, Any]:
        about = super().start(pipe, noise)
        return about | {"latents": packed(about["latents"])}

    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        places, text = height * width // 4, self.tokens
        guidance = {"guidance": torch.empty(1, device="meta")} if config.get("guidance_embeds") else {}
        return guidance | {
            "hidden_states": torch.empty(1, places, config["in_channels"], device="meta"),
            "timestep": torch.empty(1, device="meta"),
            "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"], device="meta"),
            "pooled_projections": torch.empty(1, config["pooled_projection_dim"], device="meta"),
            "txt_ids": torch.empty(text, 3, device="meta"),
            "img_ids": torch.empty(places, 3, device="meta"),
        }

    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        del negative
        words, pooled, ids = pipe.encode_prompt(list(texts), None, device=self.device(pipe))
        return {"encoder_hidden_states": words, "pooled_projections": pooled, "txt_ids": ids}

    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        b, _, height, width = noised.shape
        ids = pipe._prepare_latent_image_ids(b, height // 2, width // 2, noised.device, noised.dtype)
        guidance = None
        if pipe.transformer.config.guidance_embeds:
            # That of the last call; before one, the default of the pipeline's.
            guidance = torch.full((b,), float(getattr(pipe, "_guidance_scale", 3.5)), device=noised.device)
        found = pipe.transformer(
            hidden_states=packed(noised),
            timestep=torch.full((b,), timestep / 1000, dtype=noised.dtype, device=noised.device),
            guidance=guidance,
            img_ids=ids,
            **prompts,
            return_dict=False,
        )[0]
        return self.noise_of(pipe, unpacked(found, height, width), noised, timestep)


def packed(latents: Tensor) -> Tensor:
    """[b, C, H, W] as [b, HW / 4, 4 C], a row for each patch of 2 x 2, as the pipeline packs them."""
    b, c, height, width = latents.shape
    patches = latents.reshape(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, height * width // 4, 4 * c)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`."""
    b, _, d = rows.shape
    patches = rows.reshape(b, height // 2, width // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, d // 4, height, width)
