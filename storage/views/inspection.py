"""Views of what is found by looking into a model."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN

HEADS = View(
    name="heads",
    key="locate_id",
    key_meaning="the artifact of `saeuron locate`",
    file="heads.parquet",
    columns=(
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that is located"),
        Column("kind", "VARCHAR", "", "what was patched: head, module or block (their heads at once), or all"),
        Column("hookpoint", "VARCHAR", "", "path of the cross-attention or of the block; empty for all"),
        Column("head", "INTEGER", "index", "the attention head, from 0; null: not a single one"),
        Column("timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy; null: mean over all"),
        Column("share", "DOUBLE", "1", "how much of the change in the prediction comes with it, mean over pairs"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of share, resampled by pair"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("control", "DOUBLE", "1", "the share where a prompt without the concept takes its place"),
        Column("code_score", "BIGINT", "codes", "codes that examples with the concept have and others never"),
        Column("code_share", "DOUBLE", "1", "share of these examples whose code others never have"),
        Column("code_control", "BIGINT", "codes", "code_score with the examples' labels shuffled"),
        Column("difference", "DOUBLE", "1", "distance of its mean output with and without the concept; no SAE"),
        Column("n_pairs", "BIGINT", "pairs", "pairs of prompts behind share"),
        Column("n_examples", "BIGINT", "images", "examples behind the codes, half of them with the concept"),
    ),
)
