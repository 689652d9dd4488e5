"""Views of the figures of removals."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN, REMOVED, SPLIT

METRICS = View(
    name="metrics",
    key="evaluation_id",
    file="metrics.parquet",
    columns=(
        DOMAIN,
        Column("concept", "VARCHAR", "", "the concept that was removed"),
        Column("method", "VARCHAR", "", "how it was removed"),
        Column("metric", "VARCHAR", "", "what was measured, such as UA, IRA, CRA"),
        Column("value", "DOUBLE", "metric", "the figure; null: not judged"),
        Column("unedited", "DOUBLE", "metric", "the unedited model's, on the same prompts and noise"),
        Column("low", "DOUBLE", "metric", "lower end of the 95 % interval of value"),
        Column("high", "DOUBLE", "metric", "upper end"),
        Column("unedited_low", "DOUBLE", "metric", "lower end of the 95 % interval of unedited"),
        Column("unedited_high", "DOUBLE", "metric", "upper end"),
        Column("n_images", "BIGINT", "images", "images it is over"),
        Column("n_prompts", "BIGINT", "prompts", "prompts it is over"),
        Column("seeds", "INTEGER", "images", "images of each prompt"),
        Column("image_set", "VARCHAR", "", "the images that it covers, in words"),
        SPLIT,
        Column("removal_id", "VARCHAR", "", "the removal, see removals"),
        Column("judge", "VARCHAR", "", "the judge, as configured; null: none"),
        Column("judge_id", "VARCHAR", "", "the judge by its content: hash of weights, threshold, preprocessing"),
    ),
)
EVALUATIONS = View(
    name="evaluations",
    key="evaluation_id",
    columns=(
        *REMOVED,
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
        *REMOVED,
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
        *REMOVED,
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
        *REMOVED,
        Column("metric", "VARCHAR", "", "Frechet distance, CLIP score, out of the ordinary, or PART at THRESHOLD"),
        Column("extractor", "VARCHAR", "", "judge or network that it was measured with, by content"),
        Column("value", "DOUBLE", "metric", "with the removal; of Frechet distance: from the same images unedited"),
        Column("unedited", "DOUBLE", "metric", "of the unedited model; null for a distance"),
        Column("control", "DOUBLE", "metric", "Frechet distance between unedited images of different seeds"),
        Column("n", "BIGINT", "images", "images on either side"),
        Column("image_set", "VARCHAR", "", "the images that it covers, in words"),
    ),
)
COMPARISONS = View(
    name="comparisons",
    key="comparison_id",
    columns=(
        Column("domain", "VARCHAR", "", "kind of concept, such as style or object"),
        Column("method", "VARCHAR", "", "how the concepts are removed"),
        Column("control", "VARCHAR", "", "the method that it is compared with, on the same images"),
        Column("concepts", "VARCHAR[]", "", "the concepts removed by both; they have equal weight"),
        Column("difference", "DOUBLE", "1", "(UA + IRA + CRA) / 3 of the method minus that of the control"),
        Column("low", "DOUBLE", "1", "lower end of its 95 % interval, paired by image and resampled by prompt"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("beats", "BOOLEAN", "", "whether the interval is above 0, and at least 6 prompts differ"),
        Column("n", "BIGINT", "images", "images of each of the two, over all concepts"),
        Column("n_prompts", "BIGINT", "prompts", "different prompts of these"),
        Column("n_differ", "BIGINT", "prompts", "prompts on which the two differ"),
    ),
)
SEQUENCES = View(
    name="sequences",
    key="sequence_id",
    key_meaning="the artifact of `saeuron sequence`",
    file="sequences.parquet",
    columns=(
        Column("order_seed", "INTEGER", "", "seed of the order; 0: the order in the command"),
        Column("m", "INTEGER", "concepts", "number of concepts removed so far, in this order"),
        Column("method", "VARCHAR", "", "method of removal, or unedited"),
        Column("control", "BOOLEAN", "", "whether the method is a control"),
        Column("removed", "VARCHAR[]", "", "the concepts that are removed, in the order of the requests"),
        Column("measured", "VARCHAR", "", "the concept that is measured; null: all of the role"),
        Column("role", "VARCHAR", "", "removed, retained, IRA, CRA or RA; see saeuron/figures/sequence.py"),
        Column("accuracy", "DOUBLE", "1", "share of the images that show what was asked; of removed: 1 - UA"),
        Column("n", "BIGINT", "images", "different images it is over"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of accuracy"),
        Column("high", "DOUBLE", "1", "upper end"),
    ),
)
LEFT_OUT = View(
    name="left_out",
    key="leave_out_id",
    key_meaning="the artifact of `saeuron compare --leave-out`",
    file="left_out.parquet",
    columns=(
        Column("domain", "VARCHAR", "", "kind of concept, such as style or object; null: all"),
        Column("kind", "VARCHAR", "", "in, out, all, untrained, permuted, unedited; out - in and out - untrained"),
        Column("control", "BOOLEAN", "", "whether it is a control"),
        Column("concepts", "VARCHAR[]", "", "the concepts that are removed; they have equal weight"),
        Column("metric", "VARCHAR", "", "UA, IRA, CRA or their mean"),
        Column("value", "DOUBLE", "1", "the figure, or a difference paired by image; null: not judged"),
        Column("low", "DOUBLE", "1", "lower end of its 95 % interval"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("n", "BIGINT", "images", "images it is over"),
    ),
)
SECOND_OPINIONS = View(
    name="second_opinions",
    key="second_opinion_id",
    key_meaning="the artifact of `saeuron evaluate --judge`",
    file="second_opinions.parquet",
    columns=(
        Column("evaluation_id", "VARCHAR", "", "the evaluation whose images were judged again, see evaluations"),
        *REMOVED,
        Column("metric", "VARCHAR", "", "UA, IRA, CRA, CRA-retained, CRA-target"),
        DOMAIN,
        Column("judge", "VARCHAR", "", "who judged again, as named"),
        Column("judge_id", "VARCHAR", "", "that judge by its content"),
        Column("value", "DOUBLE", "metric", "the figure by that judge; null: not judged"),
        Column("low", "DOUBLE", "metric", "lower end of its 95 % interval"),
        Column("high", "DOUBLE", "metric", "upper end"),
        Column("unedited", "DOUBLE", "metric", "the unedited model's, by that judge, on the same prompts and noise"),
        Column("first_value", "DOUBLE", "metric", "the figure by the judge of the evaluation"),
        Column("first_low", "DOUBLE", "metric", "lower end of its 95 % interval"),
        Column("first_high", "DOUBLE", "metric", "upper end"),
        Column("first_unedited", "DOUBLE", "metric", "the unedited model's, by the judge of the evaluation"),
        Column("same", "DOUBLE", "1", "share of the images with the removal of which both judges say the same"),
        Column("n_images", "BIGINT", "images", "images it is over"),
        Column("image_set", "VARCHAR", "", "the images that it covers, in words"),
    ),
)
