"""Edits by hand: latents turned off, scaled or on, and any removal, at some steps and in a region of the picture.

    f'_i = factor_i f_i + offset_i
    x'   = x + sum_i (f'_i - f_i) W_dec[i]        where the region is painted and the step is one of those chosen

Edits of modules are limited to steps and a region; watches and changes of weights to steps. The explorer and notebooks
make them; no method does.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from saeuron.config import Half, in_text
from saeuron.errors import ConfigError
from saeuron.hooks import INPUT, Reader, Step, attached
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.methods.parts import Call, Change, Edit, Editor, Gate, Hooked, Part, Watch
from saeuron.methods.removal import Removal, combine
from saeuron.methods.weights.part import WeightChange
from saeuron.pipelines import family_of
from saeuron.sae.autoencoder import SAE


class Setting(NamedTuple):
    """Change of a latent: f' = factor f + offset. (0, 0): off; (1, 0): unchanged; (0, v): on, v at every position."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Turned(LatentEdit):
    """Latents of one SAE, each multiplied and moved, at every timestep; u latents."""

    kind: ClassVar[str] = "turned"

    offset: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Added to f, float32 [u]."""

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [..., D]; exactly zero where a latent with offset 0 does not fire."""
        f = self.encode(rows)
        return ((self.factor[0] - 1) * f + self.offset) @ self.W_dec

    def scaled(self, strength: float) -> "Turned":
        """The change f' - f times `strength`."""
        return replace(self, factor=1 + strength * (self.factor - 1), offset=strength * self.offset)

    @classmethod
    def combined(cls, parts: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        """Not combined: their changes add up."""
        return list(parts), {}


def turned(sae: SAE, settings: Mapping[int, Setting], *, sae_id: str = "", half: Half = "both") -> Turned:
    """Some latents of an SAE turned off, scaled or on.

    Args:
        settings: {latent: its change}.

    Raises:
        ConfigError: the SAE lacks one of the latents, or none was named.
    """
    n = sae.info.n_latents
    if not settings:
        raise ConfigError("no latent was named; expected at least one.")
    for latent in settings:
        if not 0 <= latent < n:
            raise ConfigError(f"latent {latent}: this SAE has {n}; expected 0 to {n - 1}.")
    selected = torch.zeros(1, n, dtype=torch.bool)
    selected[0, list(settings)] = True
    factor = torch.ones(1, n)
    for latent, setting in settings.items():
        factor[0, latent] = setting.factor
    # One row for all timesteps: the nearest is taken.
    every, floor = torch.zeros(1, dtype=torch.int64), torch.zeros(1, n)
    edit = edit_latents(sae, every, selected, factor, floor, sae_id=sae_id, half=half)
    offset = torch.tensor([settings[int(i)].offset for i in edit.latents], dtype=torch.float32)
    return Turned(**vars(edit), offset=offset)


class _Limited:
    """What parts that are limited to some steps have in common."""

    inner: Any
    first: int
    last: int | None

    def acts(self, step: Step) -> bool:
        """Whether the step is one of those chosen."""
        return step.in_text or self.first <= step.index <= (math.inf if self.last is None else self.last)

    def record(self) -> dict[str, Any]:
        """Refused. Raises ConfigError."""
        raise ConfigError("an edit in a region or at some steps cannot be saved; save the removal that it was made of.")


@dataclass(frozen=True, eq=False)
class Local(_Limited, Edit):
    """Another edit, limited to some steps and a region of the picture. It cannot be saved."""

    inner: Edit
    first: int = 0
    """First step of a generation at which it acts, from 0. In a text encoder, which runs before, it always acts."""
    last: int | None = None
    """Last step at which it acts; None: to the end."""
    region: Tensor | None = None
    """Painted cells of the picture, bool [h, w]; None: everywhere. Ignored in a text encoder."""
    aspect: float = 1.0
    """Height over width of the picture, for modules whose positions are a sequence."""

    def to(self, device: torch.device | str) -> Self:
        region = None if self.region is None else self.region.to(device)
        return replace(self, inner=self.inner.to(device), region=region)

    def content(self) -> str:
        """A hash of the inner edit and its limits."""
        region = None if self.region is None else self.region.tolist()
        return " ".join(map(str, (self.inner.content(), self.first, self.last, self.aspect, region)))

    def scaled(self, strength: float) -> Self:
        """The inner edit at that strength."""
        return replace(self, inner=self.inner.scaled(strength))

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """The inner edit's change at every position; only `change` knows positions."""
        return self.inner.delta(rows, timestep)

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        if not self.acts(step):
            return None
        change = self.inner.change(step, output)
        if change is None or self.region is None or step.in_text:
            return change
        return change * self._mask(output).to(change)

    def _mask(self, output: Tensor) -> Tensor:
        """True at positions whose centre lies in a painted cell, in a shape that broadcasts to the output."""
        assert self.region is not None
        if output.ndim == 4:
            return _resized(self.region, *output.shape[2:])
        positions = output.shape[1] if output.ndim == 3 else 1
        height = round(math.sqrt(positions * self.aspect))
        if not height or positions % height:
            raise ConfigError(
                f"{self.hookpoint} gives {positions} positions, which do not form a map; paint no region."
            )
        return _resized(self.region, height, positions // height).reshape(positions, 1)


def _resized(region: Tensor, height: int, width: int) -> Tensor:
    """`region` at the centre of each of height x width positions, bool [height, width]."""
    rows, columns = (
        ((torch.arange(n, device=region.device) + 0.5) * of / n).long()
        for n, of in ((height, region.shape[0]), (width, region.shape[1]))
    )
    return region[rows][:, columns]


@dataclass(frozen=True, eq=False)
class LocalWatch(_Limited, Watch):
    """A watch that edits at some steps alone; it looks and decides as it does without the limit. It cannot be saved."""

    inner: Watch
    first: int = 0
    """First step of a generation at which it edits, from 0."""
    last: int | None = None
    """Last step at which it edits; None: to the end."""

    def to(self, device: torch.device | str) -> Self:
        return replace(self, inner=self.inner.to(device))

    def content(self) -> str:
        """A hash of the watch and its limits."""
        return " ".join(map(str, (self.inner.content(), self.first, self.last)))

    def scaled(self, strength: float) -> Self:
        """The inner watch at that strength."""
        return replace(self, inner=self.inner.scaled(strength))

    @classmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """Watches of one kind and with the same limits are hooked together, as without limits."""
        groups: dict[tuple[type[Watch], int, int | None], list[Self]] = {}
        for part in parts:
            groups.setdefault((type(part.inner), part.first, part.last), []).append(part)
        readers: list[tuple[str, Reader]] = []
        editors: list[tuple[str, Editor]] = []
        gates: list[Gate] = []
        for (kind, _, _), group in groups.items():
            found = kind.hooked([part.inner for part in group], pipe)
            readers += found.readers
            editors += [(path, _AtSteps(group[0], editor)) for path, editor in found.editors]
            gates += found.gates
        return Hooked(readers, editors, gates)


class _AtSteps:
    """An editor that changes nothing at other steps. It runs there too: it may have something to remember."""

    def __init__(self, part: LocalWatch, editor: Editor) -> None:
        self.part, self.editor = part, editor

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """See `Edit.change`."""
        change = self.editor.change(step, output)
        return change if self.part.acts(step) else None


@dataclass(frozen=True, eq=False)
class LocalChange(_Limited, Change):
    """Changes of the denoiser, such as of its weights, that hold at some steps alone. They cannot be saved."""

    order: ClassVar[int] = 2

    inner: tuple[Change, ...]
    first: int = 0
    """First step of a generation at which they hold, from 0."""
    last: int | None = None
    """Last step at which they hold; None: to the end."""

    def content(self) -> str:
        """A hash of the changes and their limits."""
        return " ".join(map(str, (*(change.content() for change in self.inner), self.first, self.last)))

    def scaled(self, strength: float) -> Self:
        """Each of the changes at that strength."""
        return replace(self, inner=tuple(change.scaled(strength) for change in self.inner))

    @contextmanager
    def changed(self, pipe: Any) -> Iterator[None]:
        """See `Change`. Before each run of the denoiser they are made or undone, as its step asks."""
        with self._made(pipe):
            # What is wrong with a change is said here, before anything is drawn.
            pass
        now = ExitStack()
        made = False

        def begin(step: Step, sample: Tensor, source: Tensor | None) -> None:
            nonlocal made
            del sample, source
            if self.acts(step) == made:
                return
            if made:
                now.close()
            else:
                now.enter_context(self._made(pipe))
            made = not made

        with now, attached(pipe, readers={family_of(pipe).root + INPUT: begin}):
            yield

    @contextmanager
    def _made(self, pipe: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for change in sorted(self.inner, key=lambda change: change.order):
                stack.enter_context(change.changed(pipe))
            yield

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """All changes as one part, because each puts back what it found: they have to be undone in turn.

        Raises:
            ConfigError: their limits differ.
        """
        limits = {(part.first, part.last) for part in parts}
        if len(limits) > 1:
            raise ConfigError("changes of weights at different steps cannot be attached together; take the same steps.")
        inner, overlap = combine([change for part in parts for change in part.inner])
        return [replace(parts[0], inner=tuple(c for c in inner if isinstance(c, Change)))], overlap


def unlimited(removal: Removal, *, steps: bool, region: bool) -> str:
    """Why a removal cannot be limited to some steps, or to a region, in one line; empty: it can.

    Args:
        steps: whether steps are limited.
        region: whether the region is.
    """
    if not steps and not region:
        return ""
    named = f"the removal of {removal.concept!r} by {removal.method}"
    for part in removal.parts:
        if isinstance(part, Call):
            return f"{named} adds {', '.join(part.arguments)} to the pipeline's call, which holds {WHOLE}"
        if isinstance(part, Edit) and in_text(part.hookpoint):
            return f"{named} edits {part.hookpoint}, which runs before all steps and acts {WHOLE}"
        if isinstance(part, WeightChange) and (texts := [path for path in part.layers if in_text(path)]):
            return f"{named} changes {texts[0]}, which runs before all steps and acts {WHOLE}"
        if region and isinstance(part, Change):
            return (
                f"{named} changes weights, which act everywhere in the picture: paint no region; steps may be limited."
            )
        if region and isinstance(part, Watch):
            return f"{named} decides by itself where it acts: paint no region; steps may be limited."
    return ""


WHOLE = "at all steps and everywhere: choose all steps and paint no region, or take another removal."


def local(
    removals: Sequence[Removal],
    *,
    first: int = 0,
    last: int | None = None,
    region: Tensor | None = None,
    aspect: float = 1.0,
) -> Removal:
    """One removal with the effect of all of these, at some steps and in a region of the picture.

    Without either limit it is `Removal.merge`, bit for bit.

    Raises:
        ConfigError: there are no removals, or one cannot be limited so, see `unlimited`.
    """
    for removal in removals:
        if why := unlimited(removal, steps=first > 0 or last is not None, region=region is not None):
            raise ConfigError(why)
    merged = Removal.merge(removals)
    if first == 0 and last is None and region is None:
        return merged
    parts, _ = combine(merged.parts)
    limited: list[Part] = []
    for part in parts:
        if isinstance(part, Edit):
            limited.append(Local(part.hookpoint, part.half, part, first, last, region, aspect))
        elif isinstance(part, Watch):
            limited.append(LocalWatch(part, first, last))
    if changes := tuple(part for part in parts if isinstance(part, Change)):
        limited.append(LocalChange(changes, first, last))
    return replace(merged, parts=tuple(limited))
