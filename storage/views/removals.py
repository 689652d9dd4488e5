"""Views of removals, and of the attacks on them."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN, HOOKPOINT, PROMPT

REMOVAL_LATENTS = View(
    name="removal_latents",
    key="removal_id",
    key_meaning="the removal, see removals",
    file="latents.parquet",
    columns=(
        Column("concept", "VARCHAR", "", "the concept that it removes"),
        Column("method", "VARCHAR", "", "how it was made"),
        Column("role", "VARCHAR", "", "edits: it changes the latent; reads: it reads it, to decide where to act"),
        HOOKPOINT,
        Column("sae_id", "VARCHAR", "", "the SAE, see saes"),
        Column("half", "VARCHAR", "", "half of the guidance batch that is edited or read"),
        Column(
            "timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy; null: a probe's first step"
        ),
        Column("latent", "UINTEGER", "index", "latent of the SAE, from 0"),
        Column("factor", "DOUBLE", "1", "multiplier of the latent where it is edited; null: it is only read"),
        Column(
            "floor", "DOUBLE", "activation", "it is edited, or its sensor fires, above this; null: a probe reads it"
        ),
        Column("weight", "DOUBLE", "1 / activation", "weight of its pre-activation in a probe; null: no probe"),
    ),
)
GRID = View(
    name="grid",
    key="removal_id",
    key_meaning="the removal that was chosen, see removals",
    file="grid.parquet",
    columns=(
        Column("concept", "VARCHAR", "", "the concept that it removes"),
        Column("method", "VARCHAR", "", "how it was made"),
        Column("settings", "MAP(VARCHAR, VARCHAR)", "", "settings that were tried, as text"),
        Column("chosen", "BOOLEAN", "", "whether the removal has them"),
        Column("value", "DOUBLE", "1", "(UA + IRA + CRA) / 3 on validation prompts; null: not judged"),
        Column("ua", "DOUBLE", "1", "UA there"),
        Column("ira", "DOUBLE", "1", "IRA there"),
        Column("cra", "DOUBLE", "1", "CRA there, of the first other domain"),
    ),
)
ATTACKS = View(
    name="attacks",
    key="audit_id",
    key_meaning="one attack on one removal",
    file="attacks.parquet",
    columns=(
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that was removed"),
        Column("method", "VARCHAR", "", "method of removal, or unedited"),
        Column("removal_id", "VARCHAR", "", "the removal, see removals; null: the unedited model"),
        Column("strength", "DOUBLE", "1", "strength at which it was attached, 1 is the whole removal"),
        Column("attack", "VARCHAR", "", "what was tried, such as gradient"),
        Column("hidden", "BOOLEAN", "", "whether the concept's name was left out of all texts"),
        PROMPT,
        Column("before", "BOOLEAN", "", "whether the picture was drawn before the attack, from the prompt as it is"),
        Column("iteration", "BIGINT", "updates", "updates of the attack before the picture"),
        Column("timestep", "BIGINT", "", "timestep that the attack worked on; null: none"),
        Column("text", "VARCHAR", "", "what the model was told"),
        Column("judged", "VARCHAR", "", "what the judge sees"),
        Column("score", "DOUBLE", "1", "confidence of the judge, 0 to 1"),
        Column("ordinary", "BOOLEAN", "", "whether it looks like the model's own pictures; null: no judge can tell"),
        Column(
            "success", "BOOLEAN", "", "whether the judge sees the concept in a picture that is not out of the ordinary"
        ),
    ),
)
