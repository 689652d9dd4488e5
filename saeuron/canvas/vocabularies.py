"""The names that a canvas model knows, and the sentences that ask for them: one vocabulary per model."""

from dataclasses import dataclass
from typing import Literal

from saeuron.canvas import vocabulary
from saeuron.canvas.hundred import DESCRIPTIONS
from saeuron.canvas.phrases import STYLED_PARAPHRASES, UNSTYLED_PARAPHRASES, misspellings
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES, STYLES, Split, sentence
from saeuron.errors import ConfigError

Kind = Literal["plain", "paraphrase", "description", "misspelling"]
UNUSUAL: tuple[Kind, ...] = ("paraphrase", "description", "misspelling")


@dataclass(frozen=True)
class Vocabulary:
    """What one model can be asked for.

    `plain` sentences fill the templates of `vocabulary` with a name; the other kinds need `descriptions`.
    """

    name: str
    objects: tuple[str, ...]
    descriptions: tuple[str, ...] = ()
    """One per object, or none at all: then the model knows plain sentences only."""
    styles: tuple[str, ...] = STYLES
    style_classes: tuple[str, ...] = STYLE_CLASSES

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("plain", *UNUSUAL) if self.descriptions else ("plain",)

    def names(self, split: Split, object_: str, kind: Kind) -> list[str]:
        """The phrases that stand in the place of the object in sentences of one kind."""
        if kind == "description":
            return [self.descriptions[self.objects.index(object_)]]
        if kind == "misspelling":
            return misspellings(object_, split, self.objects)
        return [object_]

    def sentences(self, split: Split, object_: str, style: str | None, kind: Kind = "plain") -> list[str]:
        """Every sentence of one split and kind that asks for `object_` in `style` (None: unstyled)."""
        if kind == "paraphrase":
            templates = (UNSTYLED_PARAPHRASES if style is None else STYLED_PARAPHRASES)[split]
            return [sentence(t, object_, style) for t in templates]
        names = self.names(split, object_, kind)
        return [text for name in names for text in vocabulary.sentences(split, name, style)]

    def all_sentences(self) -> list[str]:
        """Every sentence whose words are one token each, in a fixed order; misspellings are spelled in pieces."""
        splits: tuple[Split, ...] = ("train", "validation", "test")
        return [
            text
            for kind in self.kinds
            if kind != "misspelling"
            for split in splits
            for name in self.objects
            for style in (None, *self.styles)
            for text in self.sentences(split, name, style, kind)
        ]


CANVAS = Vocabulary("canvas", tuple(DESCRIPTIONS), tuple(DESCRIPTIONS.values()))
CANVAS20 = Vocabulary("canvas20", OBJECTS)
VOCABULARIES = {v.name: v for v in (CANVAS, CANVAS20)}


def vocabulary_named(name: str) -> Vocabulary:
    """The vocabulary of a model that this package can make.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in VOCABULARIES:
        raise ConfigError(f"no canvas of the name {name!r}: there are {', '.join(VOCABULARIES)}.")
    return VOCABULARIES[name]
