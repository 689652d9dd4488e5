"""Generate images for (prompt, index) pairs, with noise that belongs to each image."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saeuron import memory
from saeuron.config import ModelConfig
from saeuron.errors import NotFinite, SaeuronError
from saeuron.memory import LANES
from saeuron.noise import initial_noise
from saeuron.pipelines import family_of
from saeuron.prompts import Prompt


@dataclass(frozen=True)
class Request:
    """One image to generate."""

    prompt: Prompt
    index: int

    @property
    def key(self) -> str:
        """Key of the image in shards and tables."""
        return f"{self.prompt.id}_{self.index:04d}"


def requests(prompts: Sequence[Prompt], each: int) -> list[Request]:
    """`each` images of every prompt, prompt by prompt."""
    return [Request(p, i) for p in prompts for i in range(each)]


def spread(prompts: Sequence[Prompt], total: int) -> list[Request]:
    """`total` images spread evenly over the prompts: the first of each, then the second of each, ..."""
    return [Request(prompts[i % len(prompts)], i // len(prompts)) for i in range(total)]


def latent_shape(pipe: Any, config: ModelConfig | None = None) -> tuple[int, int, int]:
    """(C, H, W) of one image's latents at the configured size; without one, at the pipeline's default."""
    return family_of(pipe).latent_shape(pipe, config.size if config else None)


Begin = Callable[[Sequence[Request]], Callable[[], None] | None]
"""Called with the images that are drawn next. It may return a function that undoes what hooks kept since then."""


def generate(
    pipe: Any,
    images: Sequence[Request],
    config: ModelConfig,
    seed: int,
    extra: Mapping[str, Any] | None = None,
    begin: Begin | None = None,
) -> Iterator[tuple[list[Request], NDArray[np.uint8]]]:
    """Images in micro-batches, in the order requested, each of one guidance scale; the last is padded, see `LANES`.

    Prompts that bring a seed or a guidance of their own have these.

    Hooks see the whole padded batch: its own images come first. Where memory is full, a micro-batch is halved, undone
    and begun again, and later ones are as small (`saeuron/memory.py`).

    Args:
        extra: more arguments of the pipeline's call, see `sample`.
        begin: called before each micro-batch, by whoever reads activations.

    Yields:
        (the requests of the micro-batch, uint8 [b, H, W, 3]).

    Raises:
        NoRoom: one image does not fit into memory.
    """
    shape = latent_shape(pipe, config)
    for guidance, alike in itertools.groupby(images, key=lambda r: r.prompt.guidance):
        # One call has one guidance.
        told = config if guidance is None else config.model_copy(update={"guidance": guidance})
        rest = list(alike)
        while rest:
            size = memory.fits(pipe, config.micro_batch)
            batch = rest[:size]
            filled = batch + batch[-1:] * (min(-(-len(batch) // LANES) * LANES, size) - len(batch))
            undo = begin(batch) if begin else None
            try:
                noise = starting_noise(seed, filled, shape)
                pictures = sample(pipe, [r.prompt.text for r in filled], noise, told, extra)[: len(batch)]
            except Exception as error:
                if not memory.full(error):
                    raise
                memory.halve(pipe, len(filled), error)
                if undo:
                    undo()
                continue
            yield batch, pictures
            rest = rest[size:]


def starting_noise(seed: int, images: Sequence[Request], shape: Sequence[int]) -> torch.Tensor:
    """Initial noise of each image, float32 [len(images), *shape], on the CPU.

    It is `initial_noise`, but the first image of a prompt that brings a seed has what a generator of that seed draws
    first, as in `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))` in float32.
    """
    return torch.stack(
        [
            initial_noise(seed, [(r.prompt.id, r.index)], shape)[0]
            if r.prompt.seed is None or r.index
            else torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(r.prompt.seed), device="cpu")
            for r in images
        ]
    )


def sample(
    pipe: Any, texts: Sequence[str], noise: torch.Tensor, config: ModelConfig, extra: Mapping[str, Any] | None = None
) -> NDArray[np.uint8]:
    """Images of one call of the pipeline.

    Args:
        texts: b prompts.
        noise: float32 [b, C, H, W], from `initial_noise`; H and W set the image's size, in units of the VAE's scale.
        extra: more arguments of the pipeline's call. A single text for an argument that takes one per prompt, such as
            `negative_prompt`, is used for all of them.

    Returns:
        uint8 [b, H, W, 3].

    Raises:
        NotFinite: an image holds NaN or infinity, for example after an overflow in half precision.
        SaeuronError: `extra` holds an argument that is set here.
        ConfigError: the model's scheduler cannot take so many steps, or so few.
    """
    family = family_of(pipe)
    family.check_steps(pipe, config.steps)
    own = {
        "prompt": list(texts),
        "num_inference_steps": config.steps,
        "guidance_scale": config.guidance,
        "output_type": "np",
        **family.start(pipe, noise),
    }
    more = {
        name: [value] * len(texts) if name in family.per_prompt and isinstance(value, str) else value
        for name, value in (extra or {}).items()
    }
    if twice := sorted(own.keys() & more.keys()):
        raise SaeuronError(f"extra arguments {', '.join(twice)} are set by saeuron; leave them out.")
    images = pipe(**own, **more).images
    for text, image in zip(texts, images, strict=True):
        # As uint8 it would be black, and count as a successful removal.
        if not np.isfinite(image).all():
            raise NotFinite(text, str(own["latents"].dtype).removeprefix("torch."))
    return (images * 255).round().astype(np.uint8)
