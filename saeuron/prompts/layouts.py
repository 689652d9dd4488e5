"""The layouts of prompt files: which columns say what. One entry of `LAYOUTS` for each.

A file has the first layout whose `needs` are among its columns. What differs between benchmarks is in this table alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from saeuron.config import Split
from saeuron.prompts.rows import heading


@dataclass(frozen=True)
class Layout:
    """The columns of one kind of file, in lower case."""

    name: str
    text: str
    """The column with the prompt."""
    needs: frozenset[str]
    """Columns by which the layout is recognised."""
    seed: str = "seed"
    """The column with the seed of an image."""
    guidance: str = "guidance"
    height: str = ""
    width: str = ""
    beside: frozenset[str] = frozenset()
    """Columns that say nothing of a picture."""
    split: Split = "test"
    """Split of rows that name none."""
    benchmark: bool = True
    """Whether each of its prompts is evaluated; of others, one for each combination of concepts."""

    @property
    def own(self) -> dict[str, tuple[str, ...]]:
        """{what `ignore` calls it: its columns}."""
        return {
            "seed": (self.seed,),
            "guidance": (self.guidance,),
            "size": tuple(name for name in (self.height, self.width) if name),
        }


_INDEX = frozenset({"", "index", "unnamed: 0", "case_number", "id", "image_id", "coco_id", "source"})
"""Numbers of rows, as pandas writes them, and of cases."""
_I2P = frozenset(
    {"categories", "hard", "inappropriate_percentage", "nudity_percentage", "q16_percentage", "sd_safety_percentage"}
    | {"prompt_toxicity", "lexica_url", "sd_model"}
)

LAYOUTS = (
    # One's own, and the product's: `saeuron sql "select * from prompts"`.
    Layout(
        "saeuron",
        "text",
        frozenset({"text"}),
        beside=frozenset({"prompt_id", "prompt_set_id", "source"}),
        split="train",
        benchmark=False,
    ),
    # I2P as its authors publish it (2211.05105).
    Layout(
        "i2p",
        "prompt",
        frozenset({"prompt", "sd_seed"}),
        "sd_seed",
        "sd_guidance_scale",
        "sd_image_height",
        "sd_image_width",
        _I2P | _INDEX,
    ),
    # The files of ESD (2303.07345): I2P once more, COCO's captions, artists. Ring-A-Bell (2310.10012) and P4D
    # (2309.06135) write theirs alike.
    Layout(
        "esd",
        "prompt",
        frozenset({"prompt", "evaluation_seed"}),
        "evaluation_seed",
        "evaluation_guidance",
        "sd_image_height",
        "sd_image_width",
        _I2P | _INDEX | {"artist", "class", "prompt1"},
    ),
    # MMA-Diffusion (2311.17516): `adv_prompt`, or by `text: sanitized_adv_prompt` the one without odd words.
    Layout(
        "mma",
        "adv_prompt",
        frozenset({"adv_prompt", "target_prompt"}),
        beside=_INDEX
        | {"target_prompt", "sanitized_adv_prompt", "success_against_sanitization_defense", "clean_prompt"},
    ),
    # COCO's captions (1405.0312): its JSON, or a table.
    Layout("coco", "caption", frozenset({"caption"}), beside=_INDEX | {"file_name"}),
    # A bare list of attack prompts.
    Layout("prompts", "prompt", frozenset({"prompt"}), beside=_INDEX | _I2P),
)


def layout_of(columns: Iterable[str]) -> Layout:
    """The layout of a file with these columns; one's own if it has that of no benchmark."""
    found = {heading(column) for column in columns}
    return next((layout for layout in LAYOUTS if layout.needs <= found), LAYOUTS[0])
