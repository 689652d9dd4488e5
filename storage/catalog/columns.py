"""Type, unit and meaning of every column of the views that every workspace has."""

from __future__ import annotations

from storage.declared import Column, Type
from storage.tables import (
    ATTACKS,
    ATTRIBUTIONS,
    CAPTURES,
    COMPARISONS,
    CONFUSION,
    DAMAGE,
    DESCRIPTIONS,
    DETECTIONS,
    DICTIONARY,
    DOMAIN,
    EVALUATIONS,
    EXPLANATIONS,
    GRID,
    HALF,
    HEAD_LATENTS,
    HEADS,
    HOOKPOINT,
    IMAGES,
    JUDGEMENTS,
    LEFT_OUT,
    METRICS,
    OOD,
    PAIRS,
    PICTURES,
    PREVALENCE,
    PROMPTS,
    PROOFS,
    QUALITY,
    RELATIVES,
    REMOVAL_LATENTS,
    SAES,
    SECOND_OPINIONS,
    SEQUENCES,
    STEERING,
)

_MAP: Type = "MAP(VARCHAR, VARCHAR)"

_SAE = Column("sae_id", "VARCHAR", "", "the SAE, see saes")
_CONCEPT = Column("concept", "VARCHAR", "", "the concept, by its name in the domain")
_SCORE = [
    Column("score_id", "VARCHAR", "", "the score artifact that holds the sums"),
    _SAE,
    HOOKPOINT,
    Column("protocol", "VARCHAR", "", "how the concepts were shown; only one protocol's scores compare"),
    DOMAIN,
    _CONCEPT,
]
_TIMESTEP = Column("timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy")
_LATENT = Column("latent", "UINTEGER", "index", "latent of the SAE, from 0")
_MEAN = Column("mean", "DOUBLE", "activation", "mean over all rows of the concept, zeros included")
_MEAN_OTHER = Column("mean_other", "DOUBLE", "activation", "pooled mean over the rows of the domain's other concepts")
_DIFFERENCE = Column("score", "DOUBLE", "1", "share - share_other")
_STATISTICS = [
    *_SCORE,
    HALF,
    _TIMESTEP,
    _LATENT,
    Column("fires", "UBIGINT", "rows", "rows where the latent is not 0"),
    Column("image_fires", "UINTEGER", "images", "images with such a row"),
    Column("sum", "DOUBLE", "activation", "sum of the latent over all rows, exact to 2^-24 a row"),
    Column("sumsq", "DOUBLE", "activation^2", "sum of its square, exact to 2^-24 a row"),
    Column("max", "FLOAT", "activation", "its largest value"),
    Column("n_rows", "UBIGINT", "rows", "rows seen at this timestep"),
    Column("n_images", "UINTEGER", "images", "images seen at this timestep"),
    _MEAN,
]

_SCORES = [
    *_SCORE,
    _TIMESTEP,
    _LATENT,
    _MEAN,
    _MEAN_OTHER,
    Column("share", "DOUBLE", "1", "mean / (sum of the means of all latents + 1e-8)"),
    Column("share_other", "DOUBLE", "1", "the same of mean_other"),
    _DIFFERENCE,
]

_TOP_LATENTS = [
    *_SCORE,
    _TIMESTEP,
    Column("rank", "BIGINT", "place", "1 is the highest score of the concept at this timestep; to 32"),
    _LATENT,
    _DIFFERENCE,
    _MEAN,
    _MEAN_OTHER,
]


def _deprecated(columns: list[Column], successor: str) -> list[Column]:
    """The columns of a view that keeps a former name: its column `feature` is the successor's `latent`."""
    feature = _LATENT._replace(name="feature", meaning=f"latent of the SAE; view deprecated, use {successor}")
    return [feature if column is _LATENT else column for column in columns]


COLUMNS: dict[str, list[Column]] = {
    **{view.name: view.described for view in (PROMPTS, CAPTURES, SAES, COMPARISONS)},
    "statistics": _STATISTICS,
    "statistics_by_latent": _STATISTICS,
    "scores": _SCORES,
    "scores_by_latent": _SCORES,
    "top_latents": _TOP_LATENTS,
    "latents": [
        _SAE,
        HOOKPOINT,
        _LATENT,
        Column("density", "DOUBLE", "1", "share of held-out rows on which it fires, over all timesteps"),
        Column("log10_density", "DOUBLE", "1", "its logarithm; null for a dead latent"),
        Column("image_density", "DOUBLE", "1", "share of held-out images in which it fires anywhere, at any timestep"),
        Column("mean", "DOUBLE", "activation", "mean over all rows, zeros included"),
        Column("maximum", "DOUBLE", "activation", "its largest value"),
        Column("dead", "BOOLEAN", "", "true if it fires on no row"),
        Column("always_on", "BOOLEAN", "", "true if it fires on at least 90 % of rows"),
        Column("max_cosine", "DOUBLE", "1", "largest cosine of its decoder row to another of this SAE"),
        Column("nearest", "UINTEGER", "index", "the latent of that row"),
        Column("stability", "DOUBLE", "1", "largest cosine to a decoder row of against_id; null: not compared"),
        Column("counterpart", "UINTEGER", "index", "the latent of that row"),
        Column("against_id", "VARCHAR", "", "the SAE it was compared with, see saes"),
    ],
    "latent_steps": [
        _SAE,
        HOOKPOINT,
        _LATENT,
        _TIMESTEP,
        Column("density", "DOUBLE", "1", "share of held-out rows of this timestep on which it fires"),
        Column("mean", "DOUBLE", "activation", "mean over these rows, zeros included"),
        Column("maximum", "DOUBLE", "activation", "its largest value there"),
    ],
    "top_examples": [
        _SAE,
        _LATENT,
        Column(
            "rank",
            "INTEGER",
            "place",
            "1 is the held-out image with the largest mean; the last three go on by quarters",
        ),
        Column("prompt_id", "VARCHAR", "", "the prompt, see prompts"),
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0; sets its noise"),
        Column("mean", "FLOAT", "activation", "mean over the image's rows at all timesteps, zeros included"),
        Column("timestep", "INTEGER", "scheduler step", "timestep at which it is largest"),
        Column("position", "INTEGER", "index", "position on the map, counted row by row from 0"),
        Column("value", "FLOAT", "activation", "its value there"),
    ],
    "sae_steps": [
        _SAE,
        HOOKPOINT,
        _TIMESTEP,
        Column("half", "VARCHAR", "", "half of the guidance batch"),
        Column("rows", "BIGINT", "rows", "held-out rows of this timestep and half"),
        Column("fvu", "DOUBLE", "1", "fraction of their variance unexplained, 0 is perfect"),
        Column("relative", "DOUBLE", "1", "summed squared error over summed squared length of the rows"),
        Column("l0", "DOUBLE", "latents", "mean number of latents that fire on one"),
        Column("loss_clean", "DOUBLE", "1", "noise-prediction loss of the model; null: not noised to this timestep"),
        Column("loss_sae", "DOUBLE", "1", "the same with the reconstruction in the hookpoint's place"),
        Column("loss_zero", "DOUBLE", "1", "the same with zero in its place"),
    ],
    "removals": [
        Column("removal_id", "VARCHAR", "", "the artifact"),
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that it removes"),
        Column("method", "VARCHAR", "", "how it was made, such as saeuron or steering"),
        Column("settings", _MAP, "", "the method's settings, as text: settings['n'], settings['gamma']"),
        Column("searched", "BOOLEAN", "", "false if there was no judge, so that the settings were not searched"),
        Column("reference_set", "VARCHAR", "", "the set of concepts that its scores were computed over"),
        Column("hookpoints", "VARCHAR[]", "", "modules that it edits"),
        Column("latents", "BIGINT", "latents", "different latents that it edits, over all timesteps"),
        Column("latents_read", "BIGINT", "latents", "different latents that it only reads, to decide where to act"),
        Column("ua", "DOUBLE", "1", "unlearning accuracy on the validation prompts"),
        Column("ira", "DOUBLE", "1", "in-domain retain accuracy on the validation prompts"),
        Column("cra", "DOUBLE", "1", "cross-domain retain accuracy on the validation prompts"),
        Column(
            "outdated",
            "BOOLEAN",
            "",
            "true if it is in use but the concepts scored now differ from its reference set",
        ),
    ],
    **{view.name: view.described for view in (REMOVAL_LATENTS, GRID)},
    "images": IMAGES.described,
    **{view.name: view.described for view in (JUDGEMENTS, DETECTIONS, METRICS, EVALUATIONS, DAMAGE, CONFUSION)},
    **{view.name: view.described for view in (QUALITY, PICTURES, DICTIONARY, PROOFS, EXPLANATIONS, ATTACKS, HEADS)},
    **{view.name: view.described for view in (ATTRIBUTIONS, HEAD_LATENTS, RELATIVES, SEQUENCES, LEFT_OUT, STEERING)},
    **{view.name: view.described for view in (DESCRIPTIONS, SECOND_OPINIONS, PREVALENCE, PAIRS, OOD)},
    "runs": [
        Column("run_id", "VARCHAR", "", "the run"),
        Column("number", "BIGINT", "", "runs in the order in which they began, from 1"),
        Column("flow", "VARCHAR", "", "what was run"),
        Column(
            "state",
            "VARCHAR",
            "",
            "running, completed, failed or interrupted; on an object store, running if it was killed",
        ),
        Column("started", "TIMESTAMP", "UTC", "when it began"),
        Column("finished", "TIMESTAMP", "UTC", "when it ended; null while it runs"),
        Column("made", "BIGINT", "artifacts", "made by this run"),
        Column("cached", "BIGINT", "artifacts", "found ready"),
        Column("failed", "BIGINT", "artifacts", "not made, because of an error"),
        Column("message", "VARCHAR", "", "error or note, in words"),
        Column("command", "VARCHAR", "", "the command line that started it; empty: a schedule or Python did"),
        Column("artifacts", "VARCHAR[]", "", "ids of artifacts that it made or reused; null while it runs"),
        Column("configuration", "VARCHAR", "", "its configuration, as JSON"),
    ],
    "features": _deprecated(_STATISTICS, "statistics_by_latent"),
    "top_features": _deprecated(_TOP_LATENTS, "top_latents"),
    "columns": [
        Column("view_name", "VARCHAR", "", "the view"),
        Column("column_name", "VARCHAR", "", "the column"),
        Column("type", "VARCHAR", "", "DuckDB's name of its type"),
        Column("unit", "VARCHAR", "", "unit of its values; empty for names and ids"),
        Column("meaning", "VARCHAR", "", "what it says"),
    ],
}
