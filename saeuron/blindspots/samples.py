"""Which real pictures and prompts are compared, and on which latents get their names.

Rendered pictures: one render for each prompt; names and the ordinary come from further renders. Pictures of a folder:
each with its caption as the prompt, or without captions beside any prompts; names and the ordinary come from halves of
the folder. The control has real pictures on either side: other renders of the same prompts, or halves of the folder.

What is said of new pictures must not come from pictures that latents have learned by heart. So the threshold of the
ordinary is set by others: further renders, or the half of a folder that latents are not learned from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from saeuron.blindspots.naming import words
from saeuron.blindspots.real import Folder, Picture, Rendered, Row
from saeuron.canvas.vocabularies import VOCABULARIES
from saeuron.errors import BadPrompts, ConfigError
from saeuron.generation import Request
from saeuron.noise import generator
from saeuron.prompts import Prompt, cells, choose

FURTHER = 4
"""Further renders that latents are learned from, for each pair: with the pairs alone they are learned by heart."""
FEWEST = 8
"""Pictures of a folder that can be compared."""
Labels = Mapping[str, str | None]


class Sample(NamedTuple):
    """Real pictures of one comparison."""

    real: list[Picture]
    """Real pictures to compare generated ones with; with `paired`, one for each request, in order."""
    paired: bool
    chosen: list[Picture]
    """Real pictures to choose rules on and make profiles of."""
    judged: list[Picture]
    """Real pictures to judge rules and set thresholds on; latents are never learned from them."""
    learned: int
    """How many of `real`, and of the generated pictures, latents are learned from: the first ones."""
    further: list[Picture]
    """Further pictures to learn latents from."""
    control: tuple[list[Picture], list[Picture]]
    """Real pictures on either side."""
    fresh: bool
    """Whether `chosen`, `judged` and the second side of the control are others than `real`, and that side is paired."""
    labelled: bool
    """Whether labels or captions say what real pictures show. If not, generated ones and their prompts give names."""


class Source(Protocol):
    """A source of real pictures."""

    def identity(self) -> str:
        """Its id by content."""

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if generated pictures of this size (height, width) cannot be compared with its own."""

    def requests(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[Request]:
        """The pictures to generate. Raises BadPrompts where that cannot be."""

    def sample(self, requests: Sequence[Request], others: int, size: tuple[int, int], seed: int) -> Sample:
        """The real pictures beside them, at the size (height, width) of generated ones."""


def source(spec: str, captions: str = "") -> "Source":
    """The source of a name or folder, as `saeuron.blindspots.real.check` has passed it."""
    if spec in VOCABULARIES:
        return FromRenderer(Rendered(VOCABULARIES[spec]))
    return FromFolder(Folder(Path(spec).expanduser(), Path(captions) if captions else None))


def asked(prompts: Sequence[Prompt], count: int, seed: int) -> list[Request]:
    """`count` pictures of test prompts: one prompt of each combination of concepts, then a second, ...

    Raises:
        BadPrompts: there are no test prompts.
    """
    groups = [
        choose(members, len(members), seed) for members in cells(p for p in prompts if p.split == "test").values()
    ]
    if not groups:
        raise BadPrompts("the prompt set has no test prompts; add templates or files with split 'test'.")
    order = [int(i) for i in _order(len(groups), seed)]
    return [
        Request(group[i // len(groups) % len(group)], i // len(groups) // len(group))
        for i, group in ((i, groups[order[i % len(groups)]]) for i in range(count))
    ]


class FromRenderer:
    """Renders of what prompts ask for."""

    def __init__(self, rendered: Rendered) -> None:
        self.rendered = rendered

    def identity(self) -> str:
        """Its name; the renderer's code is part of the version of what uses it."""
        return f"renders of {self.rendered.vocabulary.name}"

    def check_size(self, size: tuple[int, int]) -> None:
        if size != (32, 32):
            raise ConfigError(
                f"renders have 32 x 32 pixels, the model draws {size[0]} x {size[1]}; give a folder as --real."
            )

    def requests(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[Request]:
        found = asked(prompts, count, seed)
        for request in found:
            self.rendered.labels(request.prompt)
        return found

    def sample(self, requests: Sequence[Request], others: int, size: tuple[int, int], seed: int) -> Sample:
        self.check_size(size)
        prompts = [r.prompt for r in requests]
        more = [prompts[i % len(prompts)] for i in range(others)]
        real = self.rendered.draw(prompts, seed, "real")
        return Sample(
            real,
            True,
            self.rendered.draw(more, seed, "chosen"),
            self.rendered.draw(more, seed, "judged"),
            len(real),
            self.rendered.draw(prompts * FURTHER, seed, "learned"),
            (real, self.rendered.draw(prompts, seed, "control")),
            True,
            True,
        )


class FromFolder:
    """The pictures of a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def identity(self) -> str:
        """Hash of the files."""
        return self.folder.content

    def check_size(self, size: tuple[int, int]) -> None:
        """Pictures are scaled to any size."""

    def rows(self, count: int, seed: int) -> list[Row]:
        """At most `count` of its pictures, drawn by the seed.

        Raises:
            ConfigError: there are too few to compare.
        """
        every = self.folder.files
        if len(every) < FEWEST:
            raise ConfigError(
                f"{self.folder.path} has {len(every)} pictures that can be compared; expected at least {FEWEST}."
            )
        return [every[int(i)] for i in _order(len(every), seed)[:count]]

    def requests(self, prompts: Sequence[Prompt], count: int, seed: int) -> list[Request]:
        rows = self.rows(count, seed)
        if self.folder.table is None:
            return asked(prompts, len(rows), seed)
        seen: dict[str, int] = {}
        found = []
        for row in rows:
            prompt = row.prompt
            found.append(Request(prompt, seen.get(prompt.id, 0)))
            seen[prompt.id] = seen.get(prompt.id, 0) + 1
        return found

    def sample(self, requests: Sequence[Request], others: int, size: tuple[int, int], seed: int) -> Sample:
        del others
        paired = self.folder.table is not None
        real = self.folder.pictures(self.rows(len(requests), seed), size)
        labelled = any(p.labels for p in real)
        if not labelled and paired:
            real = [p._replace(labels=shown) for p, shown in zip(real, words([p.text for p in real]), strict=True)]
            labelled = True
        half = len(real) // 2
        # Either side of the control holds as many that latents are learned from as the other.
        sides = real[::2], real[1::2]
        return Sample(real, paired, real[:half], real[half:], half, [], sides, False, labelled)


def _order(count: int, seed: int) -> list[int]:
    import torch

    found: list[int] = torch.randperm(count, generator=generator("blindspots", seed, count)).tolist()
    return found
