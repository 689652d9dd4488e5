"""What each column of each view is: its type, unit and meaning."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One column of a view."""

    name: str
    type: str
    """DuckDB's name of the type."""
    unit: str
    """Unit of the values; empty for names and ids."""
    meaning: str


_MAP = "MAP(VARCHAR, VARCHAR)"

_SAE = Column("sae_id", "VARCHAR", "", "the SAE, see saes")
_HOOKPOINT = Column("hookpoint", "VARCHAR", "", "dotted path of the module whose output is read, or PATH:input")
_DOMAIN = Column("domain", "VARCHAR", "", "kind of concept, such as style or object")
_CONCEPT = Column("concept", "VARCHAR", "", "the concept, by its name in the domain")
_SCORE = [
    Column("score_id", "VARCHAR", "", "the score artifact that holds the sums"),
    _SAE,
    _HOOKPOINT,
    Column("protocol", "VARCHAR", "", "how the concepts were shown; only one protocol's scores compare"),
    _DOMAIN,
    _CONCEPT,
]
_TIMESTEP = Column("timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy")
_FEATURE = Column("feature", "UINTEGER", "index", "latent of the SAE, from 0")
_LATENT = Column("latent", "UINTEGER", "index", "latent of the SAE, from 0; `feature` in scores")
_MEAN = Column("mean", "DOUBLE", "activation", "mean over all rows of the concept, zeros included")
_MEAN_OTHER = Column("mean_other", "DOUBLE", "activation", "pooled mean over the rows of the domain's other concepts")
_DIFFERENCE = Column("score", "DOUBLE", "1", "share - share_other")
_SPLIT = Column("split", "VARCHAR", "", "what the prompt is for: train, validation or test")
_STATISTICS = [
    *_SCORE,
    Column("half", "VARCHAR", "", "half of the guidance batch that was read"),
    _TIMESTEP,
    _FEATURE,
    Column("fires", "UBIGINT", "rows", "rows where the latent is not 0"),
    Column("image_fires", "UINTEGER", "images", "images with such a row"),
    Column("sum", "DOUBLE", "activation", "sum of the latent over all rows, exact to 2^-24 a row"),
    Column("sumsq", "DOUBLE", "activation^2", "sum of its square, exact to 2^-24 a row"),
    Column("max", "FLOAT", "activation", "its largest value"),
    Column("n_rows", "UBIGINT", "rows", "rows seen at this timestep"),
    Column("n_images", "UINTEGER", "images", "images seen at this timestep"),
    _MEAN,
]

COLUMNS: dict[str, list[Column]] = {
    "prompts": [
        Column("prompt_set_id", "VARCHAR", "", "the artifact"),
        Column("prompt_id", "VARCHAR", "", "the prompt, within its set"),
        Column("text", "VARCHAR", "", "what the model is told"),
        _SPLIT,
        Column("concepts", _MAP, "", "concept that the prompt asks for, by domain"),
    ],
    "captures": [
        Column("capture_id", "VARCHAR", "", "the artifact, of one hookpoint"),
        Column("model_id", "VARCHAR", "", "the diffusion model, by its content"),
        _HOOKPOINT,
        Column("shards", "BIGINT", "files", "tars that hold the activations"),
        Column("rows", "BIGINT", "rows", "activation vectors: images x steps x positions"),
        Column("bytes", "BIGINT", "bytes", "size of the shards"),
        Column("width", "BIGINT", "numbers", "numbers in a row, D"),
        Column("images", "BIGINT", "images", "images that were generated"),
        Column("steps", "BIGINT", "steps", "denoising steps kept of each image"),
        Column("half", "VARCHAR", "", "half of the guidance batch that was read"),
    ],
    "saes": [
        Column("sae_id", "VARCHAR", "", "the artifact"),
        Column(
            "capture_id",
            "VARCHAR",
            "",
            "the activations it was trained on; null for an imported one, as the figures are",
        ),
        _HOOKPOINT,
        Column("variant", "VARCHAR", "", "kind of SAE, such as batch_topk"),
        Column("width", "BIGINT", "numbers", "numbers in a row, D"),
        Column("n_latents", "BIGINT", "latents", "size of the dictionary, N"),
        Column("k", "BIGINT", "latents", "latents kept of each row, exactly or about; null where nobody knows"),
        Column("fvu", "DOUBLE", "1", "fraction of variance unexplained, 0 is perfect"),
        Column("l0", "DOUBLE", "latents", "mean number of latents that fire on a row"),
        Column("dead", "DOUBLE", "1", "fraction of latents that do not fire"),
        Column("rows", "BIGINT", "rows", "rows seen in training"),
        Column("seconds", "DOUBLE", "seconds", "duration of the training"),
    ],
    "statistics": _STATISTICS,
    "features": _STATISTICS,
    "scores": [
        *_SCORE,
        _TIMESTEP,
        _FEATURE,
        _MEAN,
        _MEAN_OTHER,
        Column("share", "DOUBLE", "1", "mean / (sum of the means of all latents + 1e-8)"),
        Column("share_other", "DOUBLE", "1", "the same of mean_other"),
        _DIFFERENCE,
    ],
    "top_features": [
        *_SCORE,
        _TIMESTEP,
        Column("rank", "BIGINT", "place", "1 is the highest score of the concept at this timestep; to 32"),
        _FEATURE,
        _DIFFERENCE,
        _MEAN,
        _MEAN_OTHER,
    ],
    "latents": [
        _SAE,
        _HOOKPOINT,
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
        _HOOKPOINT,
        _LATENT,
        _TIMESTEP,
        Column("density", "DOUBLE", "1", "share of held-out rows of this timestep on which it fires"),
        Column("mean", "DOUBLE", "activation", "mean over these rows, zeros included"),
        Column("maximum", "DOUBLE", "activation", "its largest value there"),
    ],
    "top_examples": [
        _SAE,
        _LATENT,
        Column("rank", "INTEGER", "place", "1 is the held-out image on which the latent is largest"),
        Column("prompt_id", "VARCHAR", "", "the prompt, see prompts"),
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0; sets its noise"),
        Column("timestep", "INTEGER", "scheduler step", "where in the image's making it is largest"),
        Column("position", "INTEGER", "index", "where on the map, row by row from 0"),
        Column("value", "FLOAT", "activation", "its value there"),
    ],
    "sae_steps": [
        _SAE,
        _HOOKPOINT,
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
        _DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that it removes"),
        Column("reference_set", "VARCHAR", "", "the set of concepts that its scores were computed over"),
        Column("hookpoints", "VARCHAR[]", "", "modules that it edits"),
        Column("n", "INTEGER", "latents", "latents edited at each timestep"),
        Column("gamma", "DOUBLE", "1", "factor of the edit, below 0"),
        Column("features", "BIGINT", "latents", "different latents over all timesteps"),
        Column("ua", "DOUBLE", "1", "unlearning accuracy on the validation prompts"),
        Column("ira", "DOUBLE", "1", "in-domain retain accuracy on the validation prompts"),
        Column("cra", "DOUBLE", "1", "cross-domain retain accuracy on the validation prompts"),
        Column(
            "outdated",
            "BOOLEAN",
            "",
            "true if it is in use and the concepts scored now are others than those of its reference set",
        ),
    ],
    "images": [
        Column("image_set_id", "VARCHAR", "", "the artifact"),
        Column("image_set", "VARCHAR", "", "name of the set"),
        Column("key", "VARCHAR", "", "the image, within its shard"),
        Column("shard", "VARCHAR", "", "tar that holds it"),
        Column("prompt_id", "VARCHAR", "", "the prompt, see prompts"),
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0; sets its noise"),
        _SPLIT,
        Column("asked", _MAP, "", "concept that the prompt asks for, by domain"),
        Column("removals", "VARCHAR[]", "", "removals in force, empty for the unedited model"),
    ],
    "judgements": [
        Column("judgements_id", "VARCHAR", "", "the artifact: one image set, domain, judge and set of labels"),
        Column("image_set_id", "VARCHAR", "", "the images, see images"),
        Column("key", "VARCHAR", "", "the image, within its set"),
        Column("prompt_id", "VARCHAR", "", "the prompt, see prompts"),
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0"),
        Column("domain", "VARCHAR", "", "what was judged: style, object, ..."),
        Column("asked", "VARCHAR", "", "concept of the domain that the prompt asks for; null: none"),
        Column("judge", "VARCHAR", "", "who judged, as configured"),
        Column("label", "VARCHAR", "", "what the judge sees"),
        Column("score", "DOUBLE", "1", "how sure it is, 0 to 1"),
    ],
    "metrics": [
        Column("evaluation_id", "VARCHAR", "", "the artifact"),
        _DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that was removed"),
        Column("method", "VARCHAR", "", "how it was removed"),
        Column("metric", "VARCHAR", "", "what was measured, such as UA, IRA, CRA"),
        Column("value", "DOUBLE", "metric", "the measured value; null if nothing could judge it"),
        Column("unedited", "DOUBLE", "metric", "the unedited model's, on the same prompts and noise"),
        Column("low", "DOUBLE", "metric", "lower end of the 95 % interval of value"),
        Column("high", "DOUBLE", "metric", "upper end"),
        Column("unedited_low", "DOUBLE", "metric", "lower end of the 95 % interval of unedited"),
        Column("unedited_high", "DOUBLE", "metric", "upper end"),
        Column("n_images", "BIGINT", "images", "images it is over"),
        Column("n_prompts", "BIGINT", "prompts", "prompts it is over"),
        Column("seeds", "INTEGER", "images", "images of each prompt"),
        Column("image_set", "VARCHAR", "", "the images it is over, in words"),
        _SPLIT,
        Column("removal_id", "VARCHAR", "", "the removal, see removals"),
        Column("n", "INTEGER", "latents", "latents edited at each timestep; null for methods without"),
        Column("gamma", "DOUBLE", "1", "factor of the edit; null for methods without"),
    ],
    "runs": [
        Column("run_id", "VARCHAR", "", "the run"),
        Column("number", "BIGINT", "", "runs in the order in which they began, from 1"),
        Column("flow", "VARCHAR", "", "what was run"),
        Column("state", "VARCHAR", "", "how it stands or ended"),
        Column("started", "TIMESTAMP", "UTC", "when it began"),
        Column("finished", "TIMESTAMP", "UTC", "when it ended; null while it runs"),
        Column("made", "BIGINT", "artifacts", "made by this run"),
        Column("cached", "BIGINT", "artifacts", "found ready"),
        Column("failed", "BIGINT", "artifacts", "not made, because of an error"),
        Column("message", "VARCHAR", "", "what to know about it, in words"),
    ],
}
