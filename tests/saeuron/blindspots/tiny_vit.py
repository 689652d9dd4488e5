"""A tiny vision transformer with random weights, as a folder of Hugging Face."""

from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel


def save(folder: Path, seed: int = 1) -> Any:
    """Write one that reads 32 x 32 pixels in 16 patches, width 16; returns it."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=half, image_std=half).save_pretrained(folder)
    return model
