"""Tiny untrained pipelines of every family, with text encoders and tokenizers, saved as folders that are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from saeuron.canvas.model import build_tokenizer
from saeuron.canvas.vocabularies import CANVAS20

LENGTH, WIDTH = 16, 16
SIDE = 8
"""Of latents; images are 16 x 16."""


def t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer in T5's format that knows canvas's words."""
    words = sorted({word for text in CANVAS20.all_sentences() for word in text.replace(".", " .").split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *((f"▁{word}", -1.0) for word in words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(kind: Any, width: int = WIDTH) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(build_tokenizer(LENGTH)), hidden_size=width, intermediate_size=2 * width, projection_dim=width,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return kind(config).eval()


def t5_encoder() -> Any:
    size = len(t5_tokenizer())
    return T5EncoderModel(T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).eval()


def vae(channels: int, **more: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, sample_size=2 * SIDE,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=channels, norm_num_groups=4, layers_per_block=1,
        mid_block_add_attention=False, **{"scaling_factor": 0.5, **more},
    )  # fmt: skip


def words(*numbers: int) -> dict[str, Any]:
    """Tokenizers of CLIP's format: `tokenizer`, `tokenizer_2`."""
    return {("tokenizer" if n == 1 else f"tokenizer_{n}"): build_tokenizer(LENGTH) for n in numbers}


def unet(**more: Any) -> Any:
    about: dict[str, Any] = {
        "sample_size": SIDE, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": WIDTH,
    }  # fmt: skip
    return diffusers.UNet2DConditionModel(**(about | more))


def stable_diffusion() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(4), unet=unet(), text_encoder=clip_encoder(CLIPTextModel), **words(1),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_15() -> Any:
    """With the blocks of Stable Diffusion 1.5's UNet, so that modules have the same paths."""
    down, up = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
    pipe = stable_diffusion()
    pipe.register_modules(
        unet=unet(
            block_out_channels=(8, 8, 16, 16), layers_per_block=2, down_block_types=(*down, "DownBlock2D"),
            up_block_types=("UpBlock2D", *up),
        )
    )  # fmt: skip
    return pipe


def stable_diffusion_2() -> Any:
    """As Stable Diffusion 2: its UNet projects by linear layers, and predicts velocities."""
    about = {"prediction_type": "v_prediction", "steps_offset": 1, "clip_sample": False}
    return diffusers.StableDiffusionPipeline(
        vae=vae(4), unet=unet(use_linear_projection=True), text_encoder=clip_encoder(CLIPTextModel), **words(1),
        scheduler=diffusers.DDIMScheduler(**about), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl() -> Any:
    net = unet(
        cross_attention_dim=2 * WIDTH, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(4), unet=net, text_encoder=clip_encoder(CLIPTextModel), **words(1, 2),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection), add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"),
    )  # fmt: skip


def stable_diffusion_3() -> Any:
    net = diffusers.SD3Transformer2DModel(
        sample_size=SIDE, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=net, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(CLIPTextModelWithProjection), **words(1, 2),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection), text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def pixart(name: str) -> Any:
    net = diffusers.PixArtTransformer2DModel(
        sample_size=SIDE, num_layers=2, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
        cross_attention_dim=16, caption_channels=32, norm_num_groups=4,
    )  # fmt: skip
    return getattr(diffusers, name)(
        transformer=net, scheduler=diffusers.DPMSolverMultistepScheduler(), vae=vae(4), text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )  # fmt: skip


def flux(guidance: bool) -> Any:
    net = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=WIDTH, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=net, vae=vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False), **words(1),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
        text_encoder=clip_encoder(CLIPTextModel), text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


BUILD: dict[str, Callable[[], Any]] = {
    "sd": stable_diffusion,
    "sd2": stable_diffusion_2,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "pixart-alpha": lambda: pixart("PixArtAlphaPipeline"),
    "pixart-sigma": lambda: pixart("PixArtSigmaPipeline"),
    "flux-dev": lambda: flux(True),
    "flux-schnell": lambda: flux(False),
}
HOOKPOINT = {
    "sd": "unet.mid_block.attentions.0",
    "sd2": "unet.mid_block.attentions.0",
    "sdxl": "unet.mid_block.attentions.0",
    "sd3": "transformer.transformer_blocks.0",
    "pixart-alpha": "transformer.transformer_blocks.0.attn2",
    "pixart-sigma": "transformer.transformer_blocks.1",
    "flux-dev": "transformer.single_transformer_blocks.0",
    "flux-schnell": "transformer.transformer_blocks.0",
}
GUIDANCE = {"sdxl": 0.0, "flux-schnell": 0.0}
"""As SDXL Turbo and Flux schnell are used; the others at 3."""
STEPS = {"sdxl": 1}


def save(name: str, folder: Path) -> Path:
    """The tiny pipeline of that name, always with the same weights."""
    return save_built(BUILD[name], folder)


def save_built(build: Callable[[], Any], folder: Path) -> Path:
    """A pipeline that is built anew, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = build()
        with torch.no_grad():  # so that prompts and steps make a difference
            for part in pipe.components.values():
                for weight in part.parameters() if isinstance(part, torch.nn.Module) else ():
                    if weight.ndim > 1:
                        weight.add_(torch.randn_like(weight) * 0.08)
        pipe.save_pretrained(folder)
    return folder
