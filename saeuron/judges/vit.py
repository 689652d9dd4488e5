"""A plain vision transformer (2010.11929) with timm's names of weights, so that timm's checkpoints load as they are."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron.errors import BadModel

_HEAD_WIDTH = 64
"""Numbers of each attention head; the same in every size of the paper."""


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # [B, L, 3 D] -> three of [B, heads, L, 64]
        q, k, v = self.qkv(x).unflatten(2, (3, -1, _HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Patches(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)


class ViT(nn.Module):
    """Images float32 [B, 3, S, S] -> logits [B, classes]; S is 16 times the root of `positions` - 1.

    Args:
        width: D. blocks: their number. hidden: of each MLP.
        positions: patches and the class token. classes: of the head. patch: side of a patch, in pixels.
    """

    def __init__(self, width: int, blocks: int, hidden: int, positions: int, classes: int, patch: int = 16) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.patch_embed = _Patches(width, patch)
        self.blocks = nn.Sequential(*(_Block(width, hidden) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """The activations that the head reads: the class token after the last norm, [B, D]."""
        patches = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def of_weights(weights: Mapping[str, Tensor]) -> ViT:
    """The transformer whose weights these are, in float32; its size is read off them.

    Raises:
        BadModel: a weight is missing, or there are others: it is not such a transformer.
    """
    try:
        blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
        patch = weights["patch_embed.proj.weight"].shape[-1]
        with torch.device("meta"):
            model = ViT(width, blocks, hidden, weights["pos_embed"].shape[1], len(weights["head.weight"]), patch)
        model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise BadModel(f"the weights are not those of a vision transformer with timm's names: {said:.160}") from None
    return model.eval().requires_grad_(False)
