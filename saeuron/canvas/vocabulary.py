"""What canvas can draw, and the sentences that ask for it.

Objects and styles are the two domains of concepts. `unstyled` is not a style: it is what a prompt without a style
shows (plain colours, no texture), and the style judge has a class for it, so that a blank or plain image never counts
as a style that is still there.

The templates of the three splits are disjoint. A model trains on `train`, removals are tuned on `validation`, figures
are reported on `test`; the words are the same in all three, the sentences are not.
"""

from typing import Literal

OBJECTS = (
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "moon", "tree", "house",
    "fish", "flower", "cup", "key", "arrow", "bolt", "umbrella", "mushroom", "boat", "cat",
)  # fmt: skip
STYLES = (
    "cartoon", "sketch", "dots", "stripes", "watercolour", "neon",
    "mosaic", "checker", "gradient", "grain", "sepia", "blueprint",
)  # fmt: skip
UNSTYLED = "unstyled"
STYLE_CLASSES = (*STYLES, UNSTYLED)

Split = Literal["train", "validation", "test"]

STYLED_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "An image of {object} in {style} style.",
        "An image of a {object} in {style} style.",
        "A picture of a {object} in {style} style.",
        "A {object} in {style} style.",
        "A {style} style image of {object}.",
        "A {style} image of a {object}.",
        "A {style} style picture of {object}.",
        "A drawing of {object} in {style} style.",
        "The {object} is drawn in {style} style.",
        "A {style} {object}.",
        "In {style} style, a picture of {object}.",
        "{object}, {style} style.",
    ),
    "validation": (
        "A picture of {object} in {style} style.",
        "A {style} style image of a {object}.",
        "A {style} image of {object}.",
        "A {style} drawing of {object}.",
    ),
    "test": (
        "A drawing of a {object} in {style} style.",
        "A {style} picture of a {object}.",
        "In {style} style, a drawing of {object}.",
        "The {object} in {style} style.",
    ),
}
UNSTYLED_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "An image of {object}.",
        "An image of a {object}.",
        "A picture of a {object}.",
        "A {object}.",
        "A drawing of {object}.",
        "The {object} is drawn.",
        "{object}.",
    ),
    "validation": ("A picture of {object}.", "The picture of a {object}."),
    "test": ("A drawing of a {object}.", "The image of {object}."),
}


def sentence(template: str, object_: str, style: str | None) -> str:
    """Fill one template; a sentence starts with a capital whatever word comes first."""
    text = template.format(object=object_, style=style)
    return text[0].upper() + text[1:]


def sentences(split: Split, object_: str, style: str | None) -> list[str]:
    """Every sentence of one split that asks for `object_` in `style` (None: unstyled)."""
    templates = (UNSTYLED_TEMPLATES if style is None else STYLED_TEMPLATES)[split]
    return [sentence(t, object_, style) for t in templates]
