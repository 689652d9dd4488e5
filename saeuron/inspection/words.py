"""The words of the prompt and the heads from which a latent of a cross-attention gets its activation.

An SAE's pre-activation at z (the outputs of the heads side by side, 2406.17759) is a sum over heads h and tokens s:

    p_i(q) = sum_h,s A_h(q, s) v_h(s) . W_enc[i, h] + b_enc,i - W_enc[i] . b_dec

A is the attention of query q, v the value of a token. At the output of the attention, W_enc W_O stands in place of
W_enc. A and v are computed again from what to_q, to_k and to_v give; the sum is compared with p every time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import Request, generate
from saeuron.hooks import Step, attached, to_rows
from saeuron.inspection.heads import Z, cross_attentions
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE

OFF = 1e-3
"""Largest error of the sum, in units of the largest p, before an attention counts as another kind."""


class Attributed(NamedTuple):
    """One step of a micro-batch of b images, for n latents."""

    timestep: int
    value: Tensor
    """float32 [b, H, L, n]: the part of p of head and token, mean over the positions where the latent fires."""
    fires: Tensor
    """int64 [b, n]: such positions; 0: `value` is 0."""
    error: float
    """Largest difference between the sum and p, over the largest |p|."""


def attention_of(pipe: Any, hookpoint: str) -> tuple[str, Any]:
    """(path, module) of the cross-attention that an SAE reads, at its output or its z.

    Raises:
        ConfigError: the hookpoint is neither.
    """
    known = cross_attentions(pipe)
    if (path := hookpoint.removesuffix(Z)) not in known:
        raise ConfigError(
            f"{hookpoint} is not a cross-attention, so its latents have no words; train an SAE at one, such as "
            f"{next(iter(known))}{Z}"
        )
    return path, known[path]


def head_shares(sae: SAE, latent: int, heads: int) -> Tensor:
    """|W_dec[i, h]| over the sum of these of all heads, [H], of an SAE at z."""
    norms = sae.W_dec[latent].detach().reshape(heads, -1).norm(dim=1)
    return norms / norms.sum().clamp(min=1e-12)


@torch.no_grad()
def attribute(
    pipe: Any, sae: SAE, latents: Sequence[int], images: Sequence[Request], model: ModelConfig, seed: int
) -> Iterator[tuple[list[Request], list[Attributed]]]:
    """Generate images, and say at each step where the activation of latents comes from; of the conditional half.

    Raises:
        ConfigError: the SAE is not at a cross-attention, or its sum is not p: some attentions mask or add.
    """
    hookpoint = sae.info.hookpoint
    path, module = attention_of(pipe, hookpoint)
    chosen, heads = list(latents), module.heads
    u, bias = sae.W_enc[chosen], sae.b_enc[chosen] - sae.W_enc[chosen] @ sae.b_dec
    if hookpoint == path:
        linear = module.to_out[0]
        bias = bias if linear.bias is None else bias + u @ linear.bias.float()
        u = u @ linear.weight.float()
    u = u.reshape(len(chosen), heads, -1)
    given: dict[str, Tensor] = {}
    found: list[Attributed] = []
    size = 0

    def keep(name: str) -> Any:
        def reader(step: Step, output: Tensor, source: Tensor | None) -> None:
            del source
            given[name] = to_rows(step.half(output, "conditional", size)).float()

        return reader

    def read(step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        x = to_rows(step.half(output, "conditional", size)).float()
        q, k, v = (given[name].unflatten(-1, (heads, -1)) for name in ("q", "k", "v"))
        attention = torch.softmax(torch.einsum("bphd,blhd->bhpl", q, k) * module.scale, -1)
        parts = attention[..., None] * torch.einsum("blhd,nhd->bhln", v, u)[:, :, None]  # [b, H, P, L, n]
        p = sae.pre_activations(x)[..., chosen]
        error = float((parts.sum((1, 3)) + bias - p).abs().max() / p.abs().max().clamp(min=1e-12))
        if error > OFF:
            raise ConfigError(
                f"the words of {path} do not add up to its latents (off by {100 * error:.1f} %): it is not a plain "
                "attention, and cannot be attributed."
            )
        active = sae.encode(x)[..., chosen] > 0  # [b, P, n]
        fires = active.sum(1)
        value = (parts * active[:, None, :, None]).sum(2) / fires.clamp(min=1)[:, None, None]
        found.append(Attributed(step.timestep, value.cpu(), fires.cpu(), error))

    def begin(batch: Sequence[Request]) -> None:
        nonlocal size
        size = len(batch)
        found.clear()

    readers = {f"{path}.to_{name}": keep(name) for name in ("q", "k", "v")} | {hookpoint: read}
    with attached(pipe, readers=readers):
        for batch, _ in generate(pipe, images, model, seed, begin=begin):
            yield batch, list(found)


class Token(NamedTuple):
    """One token of a prompt."""

    word: str
    """The whole word that it belongs to; `<start>`, `<end>`."""
    role: str
    """The domain whose concept this word names; else start, end (and what fills up), or other."""


def tokens(pipe: Any, prompt: Prompt) -> list[Token]:
    """The tokens of a prompt as the first text encoder sees them, as long as it reads."""
    tokenizer = pipe.tokenizer
    ids = tokenizer(prompt.text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    pieces = tokenizer.convert_ids_to_tokens(ids)
    words: list[list[int]] = []
    whole = True
    end = next((i for i, n in enumerate(ids) if i and n == tokenizer.eos_token_id), len(ids))
    for i in range(1, end):
        if whole:
            words.append([])
        words[-1].append(i)
        whole = pieces[i].endswith("</w>")
    texts = ["".join(pieces[i] for i in word).replace("</w>", "") for word in words]
    result = [Token("<start>", "start")] + [Token("<end>", "end")] * (len(ids) - 1)
    for text, word in zip(texts, words, strict=True):
        for i in word:
            result[i] = Token(text, "other")
    for domain, concept in prompt.concepts.items():
        named = concept.lower().replace("-", " - ").split()
        for first in range(len(texts) - len(named) + 1):
            if texts[first : first + len(named)] == named:
                for i in (i for word in words[first : first + len(named)] for i in word):
                    result[i] = Token(result[i].word, domain)
    return result
