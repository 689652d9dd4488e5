"""Views of pictures, and of what judges say of each."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN, PROMPT, SPLIT

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
        PROMPT,
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
        PROMPT,
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
        PROMPT,
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
PICTURES = View(
    name="pictures",
    key="pictures_id",
    columns=(
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that was removed"),
        Column("method", "VARCHAR", "", "how it was removed"),
        Column("evaluation_id", "VARCHAR", "", "the evaluation whose images they show, see evaluations"),
        Column("sheet", "VARCHAR", "", "path of the contact sheet in the workspace; the newest one of a name is there"),
        Column("scores", "VARCHAR", "", "path of the plot of scores; null: the method uses none"),
    ),
)
