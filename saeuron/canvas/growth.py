"""Grow a canvas of more objects from a trained one: learning a hundred objects from nothing did not work.

From nothing, 200,000 images taught the styles and no object; from the weights of twenty objects new ones come at once.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from saeuron.canvas.card import TRAINING
from saeuron.canvas.model import Architecture, build_pipeline
from saeuron.canvas.vocabularies import CANVAS20, Vocabulary


def grow(
    old: Any, vocabulary: Vocabulary, architecture: Architecture, seed: int, known: Vocabulary = CANVAS20
) -> StableDiffusionPipeline:
    """A pipeline for `vocabulary` with the weights of `old`, float32.

    UNet and text encoder are copied; token embeddings by the token's string. A new token starts at the mean of the
    embeddings of the objects that `old` knows, with noise of their spread, so that a new word is taken for an object.
    Positions beyond those of `old` start as its last one, which only ever held padding.

    Args:
        old: a canvas pipeline of the same widths.
        vocabulary: what the new one is to know.
        architecture: its sizes; `tokens` may be larger than the old one's.
        seed: of the noise.
        known: the vocabulary of `old`.
    """
    new = build_pipeline(architecture, seed, vocabulary)
    new.unet.load_state_dict(old.unet.state_dict())
    before, after = old.text_encoder.state_dict(), new.text_encoder.state_dict()
    for name, value in after.items():
        if name.endswith("token_embedding.weight"):
            value.copy_(_embeddings(before[name].float(), old.tokenizer, new.tokenizer, known, seed))
        elif name.endswith("position_embedding.weight"):
            value.copy_(before[name][-1:].expand_as(value))
            value[: len(before[name])] = before[name]
        elif not name.endswith("position_ids"):
            value.copy_(before[name])
    return new


def images_before(folder: Path) -> int:
    """Images of its own vocabulary that the weights in a folder have seen; 0 where growth is still to come."""
    record = json.loads((folder / TRAINING).read_text())
    return record["images_seen"] if record["config"]["vocabulary"] != CANVAS20.name else 0


def _embeddings(old: Tensor, old_tokenizer: Any, new_tokenizer: Any, known: Vocabulary, seed: int) -> Tensor:
    ids, new_ids = old_tokenizer.get_vocab(), new_tokenizer.get_vocab()
    objects = old[[ids[f"{name}</w>"] for name in known.objects]]
    generator = torch.Generator().manual_seed(seed)
    fresh = objects.mean(0) + objects.std(0) * torch.randn(len(new_ids), old.shape[1], generator=generator)
    for token, index in new_ids.items():
        if token in ids:
            fresh[index] = old[ids[token]]
    return fresh
