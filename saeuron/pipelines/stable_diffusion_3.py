"""Stable Diffusion 3 and 3.5: a joint transformer, flow matching, two CLIP text encoders, a T5 that may be absent."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.pipelines.base import Rows
from saeuron.pipelines.flow import Flow


class StableDiffusion3(Flow):
    """`StableDiffusion3Pipeline`. A position is a patch of 2 x 2 latent pixels."""

    name = "StableDiffusion3Pipeline"
    text_roots = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional: ClassVar[frozenset[str]] = frozenset({"text_encoder_3"})
    tokens = 256
    per_prompt = frozenset({"negative_prompt", "negative_prompt_2", "negative_prompt_3", "prompt_2", "prompt_3"})

    def batch(self, pipe: Any, call: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[bool, Rows]:
        """Skip-layer guidance (SD3.5) runs the conditional rows once more, alone."""
        del call
        return self.guided(pipe) and kwargs.get("skip_layers") is None, "conditional"

    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        text = 77 + self.tokens
        return {
            "hidden_states": torch.empty(1, config["in_channels"], height, width, device="meta"),
            "timestep": torch.empty(1, device="meta"),
            "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"], device="meta"),
            "pooled_projections": torch.empty(1, config["pooled_projection_dim"], device="meta"),
        }

    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        guided, told = self.guided(pipe), [negative] * len(texts)
        positive, other, pooled, other_pooled = pipe.encode_prompt(
            list(texts),
            None,
            None,
            device=self.device(pipe),
            do_classifier_free_guidance=guided,
            negative_prompt=told,
        )
        return {
            "encoder_hidden_states": torch.cat([other, positive]) if guided else positive,
            "pooled_projections": torch.cat([other_pooled, pooled]) if guided else pooled,
        }

    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        rows = torch.cat([noised, noised]) if self.guided(pipe) else noised
        at = torch.full((len(rows),), float(timestep), device=rows.device)
        velocity = pipe.transformer(hidden_states=rows, timestep=at, **prompts, return_dict=False)[0]
        return self.noise_of(pipe, velocity, rows, timestep)
