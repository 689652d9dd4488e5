"""What looking into the model found of one latent: the words and heads it fires by, what steering does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.explore.shelf import Row, Shelf

WORDS = 8
"""Words that are shown."""
_SHARE = "sum(greatest(value, 0) * fires) FILTER (control = {0}) / greatest(sum(sum(greatest(value, 0) * fires) "
_SHARE += "FILTER (control = {0})) OVER (), 1e-12)"
_BY = f"""
SELECT {{0}} AS name, {_SHARE.format("false")} AS share, {_SHARE.format("true")} AS random
FROM attributions WHERE attribution_id = ? GROUP BY ALL ORDER BY share DESC NULLS LAST, name
"""
BY: Mapping[str, str] = {what: _BY.format(by) for what, by in (("roles", "role"), ("words", "word"), ("heads", "head"))}
"""{what: the query for its shares of the positive attribution, of the latent and of random ones}, of an attribution."""
_STEERED = """
SELECT kind, alpha, on_target, low, high, unedited, off_target, odd, n, rule FROM steering
WHERE steering_id = ? AND split = 'test' ORDER BY kind <> 'latent', kind DESC, alpha DESC
"""


@dataclass(frozen=True)
class Inspected:
    """Inspections of a latent; empty lists where none was made."""

    words: Sequence[Row]
    """name, share, random: of what raises it, by word; at a cross-attention."""
    images: int
    """Images that the words are of."""
    steered: Sequence[Row]
    """Effects of the latent and its controls on test images, at the settings that validation images chose."""


def inspected(shelf: Shelf, sae_id: str, latent: int) -> Inspected:
    """The newest attribution and the newest steering of a latent."""
    words = shelf.newest("attribution", sae_id=sae_id, latent=latent)
    steered = shelf.newest("steering", sae_id=sae_id, latent=latent)
    return Inspected(
        shelf.rows(BY["words"], words.id)[:WORDS] if words else [],
        int(words.summary["images"]) if words else 0,
        shelf.rows(_STEERED, steered.id) if steered else [],
    )
