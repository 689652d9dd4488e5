"""PixArt-Alpha and -Sigma: a transformer with cross-attention to T5's words; half of its output may be variances."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.pipelines.base import Rows
from saeuron.pipelines.stable_diffusion import StableDiffusion, predicted_noise


class PixArtSigma(StableDiffusion):
    """`PixArtSigmaPipeline`. A position is a patch of 2 x 2 latent pixels."""

    name = "PixArtSigmaPipeline"
    root = "transformer"
    options = {}  # noqa: RUF012
    literature = ()
    tokens = 300
    place = 2

    def prepare(self, pipe: Any, device: torch.device) -> None:
        """Nothing: its matrix products know no layout of channels."""

    def worth_naming(self, path: str) -> bool:
        """Blocks of the transformer and their cross-attentions; blocks of the text encoder."""
        parts = path.split(".")
        if parts[0] != self.root:
            return len(parts) > 1 and parts[-2] == "block"
        return len(parts) == 3 or parts[-1] == "attn2"

    def batch(self, pipe: Any, call: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[bool, Rows]:
        """The pipeline keeps no record of guidance: only a variable of its call tells."""
        del pipe, kwargs
        return bool(call.get("do_classifier_free_guidance")), "conditional"

    def start(self, pipe: Any, noise: Tensor) -> dict[str, Any]:
        """Arguments that switch off binning and caption cleaning.

        Without binning an image has the size of its noise; at the default size nothing changes. Cleaning would depend
        on whether an optional package is installed.
        """
        return super().start(pipe, noise) | {"use_resolution_binning": False, "clean_caption": False}

    def probe(self, config: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        text = torch.empty(1, self.tokens or 0, config["caption_channels"], device="meta")
        return {
            "hidden_states": torch.empty(1, config["in_channels"], height, width, device="meta"),
            "timestep": torch.empty(1, device="meta"),
            "encoder_hidden_states": text,
            "added_cond_kwargs": self.added(config, 1, (8 * height, 8 * width), text),
        }

    def encode_prompt(self, pipe: Any, texts: Sequence[str], negative: str = "") -> dict[str, Any]:
        """The encoded texts, without guidance: only a call knows of it."""
        del negative
        words, mask, _, _ = pipe.encode_prompt(list(texts), False, device=self.device(pipe))
        size = self.latent_shape(pipe)[1:]
        pixels = (size[0] * pipe.vae_scale_factor, size[1] * pipe.vae_scale_factor)
        added = self.added(pipe.transformer.config, len(texts), pixels, words)
        return {"encoder_hidden_states": words, "encoder_attention_mask": mask, "added_cond_kwargs": added}

    def added(
        self, config: Mapping[str, Any], count: int, pixels: tuple[int, int], like: Tensor
    ) -> dict[str, Tensor | None]:
        """Further inputs of the denoiser for `count` images; PixArt-Sigma needs none."""
        del config, count, pixels, like
        return {"resolution": None, "aspect_ratio": None}

    def predict_noise(self, pipe: Any, noised: Tensor, timestep: int, prompts: Mapping[str, Any]) -> Tensor:
        at = torch.full((len(noised),), timestep, device=noised.device)
        prediction = pipe.transformer(noised, timestep=at, **prompts, return_dict=False)[0]
        return predicted_noise(prediction[:, : noised.shape[1]], noised, pipe.scheduler, timestep)


class PixArtAlpha(PixArtSigma):
    """`PixArtAlphaPipeline`."""

    name = "PixArtAlphaPipeline"
    tokens = 120
    ONE_STEP: ClassVar = ("LCMScheduler", "DDIMScheduler", "DDPMScheduler")
    """Schedulers that say the finished image, which the pipeline takes of a single step (PixArt-DMD)."""

    def check_steps(self, pipe: Any, steps: int) -> None:
        """See `Family.check_steps`."""
        super().check_steps(pipe, steps)
        if steps == 1 and type(pipe.scheduler).__name__ not in self.ONE_STEP:
            raise ConfigError(
                f"one step of {self.name} needs one of {', '.join(self.ONE_STEP)}, but the model has "
                f"{type(pipe.scheduler).__name__}; take 2 steps or more, or set model.scheduler."
            )

    def added(
        self, config: Mapping[str, Any], count: int, pixels: tuple[int, int], like: Tensor
    ) -> dict[str, Tensor | None]:
        """The model of 1024 pixels is told the resolution and the ratio of height to width."""
        if config["sample_size"] != 128:
            return super().added(config, count, pixels, like)
        resolution = torch.tensor([pixels], dtype=like.dtype).repeat(count, 1).to(like.device)
        ratio = torch.tensor([[pixels[0] / pixels[1]]], dtype=like.dtype).repeat(count, 1).to(like.device)
        return {"resolution": resolution, "aspect_ratio": ratio}
