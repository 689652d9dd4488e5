"""The small tables: the views of the stages that ship, as data, and Parquet of a given schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.declared import Column, View
from storage.errors import BadTable
from storage.parquet import read_parquet, read_schema, write_parquet

_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
    "MAP(VARCHAR, VARCHAR)": pa.map_(pa.string(), pa.string()),
}
HOOKPOINT = Column("hookpoint", "VARCHAR", "", "dotted path of the module whose output is read, or PATH:input")
SPLIT = Column("split", "VARCHAR", "", "what the prompt is for: train, validation or test")
HALF = Column("half", "VARCHAR", "", "half of the guidance batch that was read")
DOMAIN = Column("domain", "VARCHAR", "", "kind of concept, such as style or object")
_PROMPT = Column("prompt_id", "VARCHAR", "", "the prompt, see prompts")

PROMPTS = View(
    name="prompts",
    key="prompt_set_id",
    file="prompts.parquet",
    columns=(
        Column("prompt_id", "VARCHAR", "", "the prompt, within its set"),
        Column("text", "VARCHAR", "", "what the model is told"),
        SPLIT,
        Column("concepts", "MAP(VARCHAR, VARCHAR)", "", "concept that the prompt asks for, by domain"),
    ),
)
CAPTURES = View(
    name="captures",
    key="capture_id",
    key_meaning="the artifact, of one hookpoint",
    columns=(
        Column("model_id", "VARCHAR", "", "the diffusion model, by its content"),
        HOOKPOINT,
        Column("shards", "BIGINT", "files", "tars that hold the activations"),
        Column("rows", "BIGINT", "rows", "activation vectors: images x steps x positions"),
        Column("bytes", "BIGINT", "bytes", "size of the shards"),
        Column("width", "BIGINT", "numbers", "numbers in a row, D"),
        Column("images", "BIGINT", "images", "images that were generated"),
        Column("steps", "BIGINT", "steps", "denoising steps kept of each image"),
        HALF,
    ),
)
SAES = View(
    name="saes",
    key="sae_id",
    columns=(
        Column(
            "capture_id",
            "VARCHAR",
            "",
            "the activations it was trained on; null for an imported one, as the figures are",
        ),
        HOOKPOINT,
        Column("variant", "VARCHAR", "", "kind of SAE, such as batch_topk"),
        Column("width", "BIGINT", "numbers", "numbers in a row, D"),
        Column("n_latents", "BIGINT", "latents", "size of the dictionary, N"),
        Column("k", "BIGINT", "latents", "latents kept of each row, exactly or about; null where nobody knows"),
        Column("dictionary", "VARCHAR", "", "trained, or a control: untrained, frozen; null for an imported one"),
        Column("fvu", "DOUBLE", "1", "fraction of variance unexplained, 0 is perfect"),
        Column("l0", "DOUBLE", "latents", "mean number of latents that fire on a row"),
        Column("dead", "DOUBLE", "1", "fraction of latents that do not fire"),
        Column("rows", "BIGINT", "rows", "rows seen in training"),
        Column("seconds", "DOUBLE", "seconds", "duration of the training"),
    ),
)
IMAGES = View(
    name="images",
    key="image_set_id",
    file="images.parquet",
    columns=(
        Column("image_set", "VARCHAR", "", "name of the set"),
        Column("key", "VARCHAR", "", "the image, within its shard"),
        Column(
            "shard",
            "VARCHAR",
            "",
            "tar in artifacts/images/IMAGE_SET_ID that holds it, as KEY.png",
        ),
        _PROMPT,
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0; sets its noise"),
        SPLIT,
        Column("asked", "MAP(VARCHAR, VARCHAR)", "", "concept that the prompt asks for, by domain"),
        Column("removals", "VARCHAR[]", "", "removals in force, empty for the unedited model"),
    ),
)
JUDGEMENTS = View(
    name="judgements",
    key="judgements_id",
    key_meaning="the artifact: one image set, domain, judge and set of labels",
    file="judgements.parquet",
    columns=(
        Column("image_set_id", "VARCHAR", "", "the images, see images"),
        Column("key", "VARCHAR", "", "the image, within its set"),
        _PROMPT,
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0"),
        Column("domain", "VARCHAR", "", "what was judged: style, object, ..."),
        Column("asked", "VARCHAR", "", "concept of the domain that the prompt asks for; null: none"),
        Column("judge", "VARCHAR", "", "who judged, as configured"),
        Column("label", "VARCHAR", "", "what the judge sees"),
        Column("score", "DOUBLE", "1", "confidence of the judge, 0 to 1"),
    ),
)
DETECTIONS = View(
    name="detections",
    key="judgements_id",
    key_meaning="the artifact of a detecting judge, see judgements",
    file="detections.parquet",
    columns=(
        Column("image_set_id", "VARCHAR", "", "the images, see images"),
        Column("key", "VARCHAR", "", "the image, within its set"),
        _PROMPT,
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0"),
        DOMAIN,
        Column("judge", "VARCHAR", "", "who judged, as configured"),
        Column("part", "VARCHAR", "", "what was found, in the detector's words, such as FACE_FEMALE"),
        Column("score", "DOUBLE", "1", "confidence of the detector; no threshold is applied"),
        Column("x", "INTEGER", "pixels", "left edge"),
        Column("y", "INTEGER", "pixels", "upper edge"),
        Column("width", "INTEGER", "pixels", "from left to right"),
        Column("height", "INTEGER", "pixels", "from top to bottom"),
    ),
)
METRICS = View(
    name="metrics",
    key="evaluation_id",
    file="metrics.parquet",
    columns=(
        DOMAIN,
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
        SPLIT,
        Column("removal_id", "VARCHAR", "", "the removal, see removals"),
        Column("judge", "VARCHAR", "", "who judged, as configured; null: nobody"),
        Column("judge_id", "VARCHAR", "", "the judge by its content: hash of weights, threshold, preprocessing"),
    ),
)
_REMOVED = (
    Column("removal_id", "VARCHAR", "", "the removal, see removals"),
    Column("concept", "VARCHAR", "", "the concept that was removed"),
    Column("method", "VARCHAR", "", "how it was removed"),
)
EVALUATIONS = View(
    name="evaluations",
    key="evaluation_id",
    columns=(
        *_REMOVED,
        Column("domain", "VARCHAR", "", "domain of the concept"),
        Column("verdict", "VARCHAR", "", "holds, weak, failed, or cannot be judged"),
        Column("reason", "VARCHAR", "", "why it does not hold; empty if it does"),
        Column("value", "DOUBLE", "1", "(UA + IRA + CRA) / 3; null if something could not be judged"),
        Column("images", "BIGINT", "images", "images with the removal"),
    ),
)
DAMAGE = View(
    name="damage",
    key="evaluation_id",
    file="damage.parquet",
    columns=(
        *_REMOVED,
        Column("harmed", "VARCHAR", "", "another concept; those that lost nothing have rows too"),
        Column("domain", "VARCHAR", "", "domain of harmed"),
        Column("before", "DOUBLE", "1", "share of the images that ask for harmed in which its judge sees it, unedited"),
        Column("after", "DOUBLE", "1", "the same with the removal, on the same prompts and noise"),
        Column("loss", "DOUBLE", "1", "before - after"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of loss, paired by image"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("certain", "BOOLEAN", "", "whether the interval is above 0; by chance true of 1 in 40 without a loss"),
        Column("n", "BIGINT", "images", "images that ask for harmed"),
        Column("n_prompts", "BIGINT", "prompts", "prompts of these"),
    ),
)
CONFUSION = View(
    name="confusion",
    key="evaluation_id",
    file="confusion.parquet",
    columns=(
        *_REMOVED,
        Column("domain", "VARCHAR", "", "what was judged: style, object, ..."),
        Column("asked", "VARCHAR", "", "concept of this domain that the prompt asks for"),
        Column("seen", "VARCHAR", "", "what the judge sees"),
        Column("n", "BIGINT", "images", "images with the removal"),
        Column("n_unedited", "BIGINT", "images", "the same of the unedited model"),
    ),
)
QUALITY = View(
    name="quality",
    key="evaluation_id",
    file="quality.parquet",
    columns=(
        *_REMOVED,
        Column("metric", "VARCHAR", "", "Frechet distance, CLIP score, out of the ordinary, or PART at THRESHOLD"),
        Column("extractor", "VARCHAR", "", "what it was measured with, by content"),
        Column("value", "DOUBLE", "metric", "with the removal; of Frechet distance: from the same images unedited"),
        Column("unedited", "DOUBLE", "metric", "of the unedited model; null for a distance"),
        Column(
            "control", "DOUBLE", "metric", "Frechet distance of two seeds' unedited images: what chance alone makes"
        ),
        Column("n", "BIGINT", "images", "images on either side"),
        Column("image_set", "VARCHAR", "", "the images it is over, in words"),
    ),
)
COMPARISONS = View(
    name="comparisons",
    key="comparison_id",
    columns=(
        Column("domain", "VARCHAR", "", "kind of concept, such as style or object"),
        Column("method", "VARCHAR", "", "how the concepts are removed"),
        Column("control", "VARCHAR", "", "the method that it is compared with, on the same images"),
        Column("concepts", "VARCHAR[]", "", "the concepts removed by both, which count alike"),
        Column("difference", "DOUBLE", "1", "(UA + IRA + CRA) / 3 of the method minus that of the control"),
        Column("low", "DOUBLE", "1", "lower end of its 95 % interval, paired by image and resampled by prompt"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("beats", "BOOLEAN", "", "whether the interval is above 0, and at least 6 prompts differ"),
        Column("n", "BIGINT", "images", "images of either, over all concepts"),
        Column("n_prompts", "BIGINT", "prompts", "different prompts of these"),
        Column("n_differ", "BIGINT", "prompts", "prompts on which the two differ"),
    ),
)
DICTIONARY = View(
    name="dictionary",
    key="proof_id",
    key_meaning="the artifact of `saeuron sae prove`",
    file="dictionary.parquet",
    columns=(
        HOOKPOINT,
        Column("kind", "VARCHAR", "", "trained, its controls untrained and frozen, neurons, or supervised"),
        Column("sae_id", "VARCHAR", "", "the SAE; null for neurons and supervised directions"),
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that the latent names"),
        Column("latent", "UINTEGER", "index", "its best latent by F1 on validation images; null: none fires"),
        Column("threshold", "DOUBLE", "activation", "it names the images whose strength is at least this"),
        Column("precision", "DOUBLE", "1", "of the test images that it names, the share that ask for the concept"),
        Column("recall", "DOUBLE", "1", "of the test images that ask for it, the share that it names"),
        Column("f1", "DOUBLE", "1", "harmonic mean of precision and recall"),
        Column("auroc", "DOUBLE", "1", "chance that it is stronger on an image of the concept than on another"),
        Column("positives", "BIGINT", "images", "test images that ask for the concept"),
        Column("images", "BIGINT", "images", "test images"),
    ),
)
REMOVAL_LATENTS = View(
    name="removal_latents",
    key="removal_id",
    key_meaning="the removal, see removals",
    file="latents.parquet",
    columns=(
        Column("concept", "VARCHAR", "", "the concept that it removes"),
        Column("method", "VARCHAR", "", "how it was made"),
        HOOKPOINT,
        Column("sae_id", "VARCHAR", "", "the SAE, see saes"),
        Column("half", "VARCHAR", "", "half of the guidance batch that is edited"),
        Column("timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy"),
        Column("latent", "UINTEGER", "index", "latent of the SAE, from 0"),
        Column("factor", "DOUBLE", "1", "what multiplies the latent where it is edited"),
        Column("floor", "DOUBLE", "activation", "it is edited where it is above this"),
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
        Column("value", "DOUBLE", "1", "(UA + IRA + CRA) / 3 on validation prompts; null if nothing judged"),
        Column("ua", "DOUBLE", "1", "UA there"),
        Column("ira", "DOUBLE", "1", "IRA there"),
        Column("cra", "DOUBLE", "1", "CRA there, of the first other domain"),
    ),
)
PICTURES = View(
    name="pictures",
    key="pictures_id",
    columns=(
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that was removed"),
        Column("method", "VARCHAR", "", "how it was removed"),
        Column("evaluation_id", "VARCHAR", "", "what they show, see evaluations"),
        Column("sheet", "VARCHAR", "", "path of the contact sheet in the workspace; the newest one of a name is there"),
        Column("scores", "VARCHAR", "", "path of the plot of scores; null: the method uses none"),
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
        Column("method", "VARCHAR", "", "how it was removed; unedited: not at all"),
        Column("removal_id", "VARCHAR", "", "the removal, see removals; null: the unedited model"),
        Column("strength", "DOUBLE", "1", "strength at which it was attached, 1 is the whole removal"),
        Column("attack", "VARCHAR", "", "what was tried, such as gradient"),
        Column("hidden", "BOOLEAN", "", "whether no text held the concept's name"),
        _PROMPT,
        Column("before", "BOOLEAN", "", "whether the picture was drawn before the attack, from the prompt as it is"),
        Column("iteration", "BIGINT", "updates", "updates of the attack before the picture"),
        Column("timestep", "BIGINT", "", "timestep that the attack worked on; null: none"),
        Column("text", "VARCHAR", "", "what the model was told"),
        Column("judged", "VARCHAR", "", "what the judge sees"),
        Column("score", "DOUBLE", "1", "confidence of the judge, 0 to 1"),
        Column("ordinary", "BOOLEAN", "", "whether it looks like the model's other pictures; null: nobody can tell"),
        Column(
            "success", "BOOLEAN", "", "whether the judge sees the concept in a picture that is not out of the ordinary"
        ),
    ),
)
SHIPPED: dict[str, tuple[View, ...]] = {
    "prompts": (PROMPTS,),
    "capture": (CAPTURES,),
    "sae": (SAES,),
    "removal": (REMOVAL_LATENTS, GRID),
    "images": (IMAGES,),
    "judgements": (JUDGEMENTS, DETECTIONS),
    "evaluation": (METRICS, EVALUATIONS, DAMAGE, CONFUSION, QUALITY),
    "pictures": (PICTURES,),
    "comparison": (COMPARISONS,),
    "audit": (ATTACKS,),
    "proof": (DICTIONARY,),
}
"""{stage: its views}, of the stages that ship; every workspace has them, empty where nothing was made."""

HISTORY = pa.schema(
    [
        ("step", pa.int64()),
        ("rows", pa.int64()),
        ("fvu", pa.float64()),
        ("l0", pa.float64()),
        ("dead", pa.float64()),
        ("loss", pa.float64()),
    ]
)


def schema(columns: Iterable[Column]) -> pa.Schema:
    """Columns as Arrow's schema; `view.columns` are those of a view's Parquet file."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in columns])


def check_file(folder: Path, view: View) -> None:
    """Raise BadTable unless the file of a view in an artifact's folder has the columns that the view declares.

    Raises ArtifactMissing or ArtifactDamaged if there is no such Parquet file.
    """
    if view.file and not (found := read_schema(folder / view.file)).equals(schema(view.columns)):
        raise BadTable(
            f"{folder / view.file} has the columns {_shown(found)}; the view {view.name!r} declares "
            f"{_shown(schema(view.columns))}: write it with storage.tables.table(rows, view)."
        )


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def table(rows: Iterable[Mapping[str, Any]], columns: pa.Schema | View) -> pa.Table:
    """Rows as a table of a schema, or of the file of a view. Maps are sorted by key: equal rows, equal bytes.

    Raises ValueError for a row that lacks a column (write None where there is no value) or has one too many.
    """
    wanted = schema(columns.columns) if isinstance(columns, View) else columns
    maps = [field.name for field in wanted if pa.types.is_map(field.type)]
    out = []
    for index, row in enumerate(rows):
        if row.keys() != set(wanted.names):
            odd = sorted(row.keys() ^ set(wanted.names))
            raise ValueError(f"row {index} differs from the schema in {odd}: expected the columns {wanted.names}")
        out.append({**row, **{name: sorted(row[name].items()) for name in maps if row[name] is not None}})
    return pa.Table.from_pylist(out, schema=wanted)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, all or nothing; equal tables, equal bytes. Raises DiskFull."""
    write_parquet(path, table)


def read_table(path: Path) -> pa.Table:
    """The table in a file. Raises ArtifactMissing or ArtifactDamaged."""
    return read_parquet(path)
