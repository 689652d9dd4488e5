"""Build canvas from nothing: a `StableDiffusionPipeline` with untrained weights.

Every part is the stock diffusers or transformers class, except the VAE stand-in, so that what runs on canvas runs on
Stable Diffusion unchanged.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from saeuron.canvas.renderer import SIZE
from saeuron.canvas.vae import PixelUnshuffleVAE
from saeuron.canvas.vocabularies import CANVAS20, Vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"


class Architecture(BaseModel):
    """The sizes of canvas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch: int = 4
    """Pixels per side of a latent pixel: 4 gives 8x8x48 latents, 2 gives 16x16x12 and costs about twice as much."""
    channels: tuple[int, ...] = (96, 160)
    """Channels of the UNet's blocks, fine to coarse."""
    heads: int = 4
    """Attention heads of each block."""
    groups: int = 16
    """Groups of the group norms."""
    text_width: int = 96
    """Width of the text encoder and of the cross-attention."""
    text_layers: int = 2
    """Layers of the text encoder."""
    tokens: int = 16
    """Length of a prompt in tokens, start and end included; longer prompts are truncated, with a warning."""


def _learn_merges(words: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-pair merges that make one token of every word, and the vocabulary they span.

    The usual greedy procedure (Sennrich et al. 2016, 1508.07909) with ties broken by the pair itself: the `tokenizers`
    trainer breaks them by hash order, which differs from process to process.
    """
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))}
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.-'")
    vocabulary = alphabet + [c + "</w>" for c in alphabet]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for p in pieces.values() for pair in pairwise(p))
        if not counts:
            return vocabulary, merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        if "".join(best) not in vocabulary:
            vocabulary.append("".join(best))
        for word, p in pieces.items():
            merged: list[str] = []
            for piece in p:
                if merged and (merged[-1], piece) == best:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            pieces[word] = merged


def build_tokenizer(length: int, vocabulary: Vocabulary = CANVAS20) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format that knows every word of canvas's sentences as one token."""
    words = [word for text in vocabulary.all_sentences() for word in re.findall(r"[a-z]+|[.,]", text.lower())]
    pieces, merges = _learn_merges(words)
    return CLIPTokenizer(
        {token: i for i, token in enumerate([START, END, *pieces])},
        merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=length,
    )


def build_pipeline(architecture: Architecture, seed: int, vocabulary: Vocabulary = CANVAS20) -> StableDiffusionPipeline:
    """An untrained canvas pipeline, float32, on CPU; the same seed gives the same weights."""
    tokenizer = build_tokenizer(architecture.tokens, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=architecture.text_width,
                intermediate_size=4 * architecture.text_width,
                projection_dim=architecture.text_width,
                num_hidden_layers=architecture.text_layers,
                num_attention_heads=4,
                max_position_embeddings=architecture.tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        latent_channels = 3 * architecture.patch**2
        depth = len(architecture.channels)
        unet = UNet2DConditionModel(
            sample_size=SIZE // architecture.patch,
            in_channels=latent_channels,
            out_channels=latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * depth,
            up_block_types=("CrossAttnUpBlock2D",) * depth,
            block_out_channels=architecture.channels,
            layers_per_block=1,
            cross_attention_dim=architecture.text_width,
            attention_head_dim=architecture.heads,
            norm_num_groups=architecture.groups,
        )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        # The pipeline rewrites any other values of these two, with a warning.
        clip_sample=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=PixelUnshuffleVAE(patch=architecture.patch),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
