"""Views of what is found by looking into a model."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN, HOOKPOINT, PROMPT, SPLIT

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
        Column("share", "DOUBLE", "1", "share of the change in the prediction that follows it, mean over pairs"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of share, resampled by pair"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("control", "DOUBLE", "1", "the share if a prompt without the concept is used instead"),
        Column("code_score", "BIGINT", "codes", "codes that occur only in examples with the concept"),
        Column("code_share", "DOUBLE", "1", "share of these examples whose code occurs in no others"),
        Column("code_control", "BIGINT", "codes", "code_score with the examples' labels shuffled"),
        Column("difference", "DOUBLE", "1", "distance of its mean output with and without the concept; no SAE"),
        Column("n_pairs", "BIGINT", "pairs", "pairs of prompts behind share"),
        Column("n_examples", "BIGINT", "images", "examples behind the codes, half of them with the concept"),
    ),
)
_SAE = Column("sae_id", "VARCHAR", "", "the SAE, see saes")
_LATENT = Column("latent", "UINTEGER", "index", "latent of the SAE, from 0")
_CONTROL = Column("control", "BOOLEAN", "", "whether it is one of the latents drawn at random")
_HEAD = Column("head", "INTEGER", "index", "the attention head, from 0")
ATTRIBUTIONS = View(
    name="attributions",
    key="attribution_id",
    key_meaning="the artifact of `saeuron latent show --attribution`",
    file="attributions.parquet",
    columns=(
        _SAE,
        _LATENT,
        _CONTROL,
        PROMPT,
        Column("image_index", "INTEGER", "index", "which image of the prompt, from 0; sets its noise"),
        Column("timestep", "INTEGER", "scheduler step", "denoising timestep, high is noisy"),
        _HEAD,
        Column("token", "INTEGER", "index", "place in the prompt, from 0, the start token"),
        Column("word", "VARCHAR", "", "the word that the token belongs to, or <start> or <end>"),
        Column("role", "VARCHAR", "", "domain whose concept the word names; else start, end or other"),
        Column("value", "DOUBLE", "activation", "what head and token add to it, mean over its positions"),
        Column("fires", "BIGINT", "positions", "positions where it fires, of this image at this step"),
    ),
)
HEAD_LATENTS = View(
    name="head_latents",
    key="attribution_id",
    key_meaning="the artifact, see attributions",
    file="head_latents.parquet",
    columns=(
        _SAE,
        _LATENT,
        _CONTROL,
        _HEAD,
        Column("decoder", "DOUBLE", "1", "the head's share of the length of its decoder row; null: not at z"),
        Column("attributed", "DOUBLE", "1", "the head's share of what raises it where it fires"),
    ),
)
RELATIVES = View(
    name="relatives",
    key="relatives_id",
    key_meaning="the artifact of `saeuron concept relatives`",
    file="relatives.parquet",
    columns=(
        DOMAIN,
        Column("a", "VARCHAR", "", "a concept"),
        Column("b", "VARCHAR", "", "another concept of its domain; each pair has a row for either order"),
        Column("place", "INTEGER", "place", "b among the relatives of a, 1 is the most similar"),
        Column(
            "similarity", "DOUBLE", "1", "cosine of mean activations on a and on b, each less the mean over concepts"
        ),
        Column("untrained", "DOUBLE", "1", "the same of an SAE that was never trained; null: not scored"),
        Column("iou", "DOUBLE", "1", "overlap of their templates; null where the model is not canvas, and of styles"),
        Column("ira_loss", "DOUBLE", "1", "what b loses when a is removed, see damage; null: not removed"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of ira_loss, paired by image"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("n", "BIGINT", "images", "images behind ira_loss"),
    ),
)
STEERING = View(
    name="steering",
    key="steering_id",
    key_meaning="the artifact of `saeuron latent steer`",
    file="steering.parquet",
    columns=(
        HOOKPOINT,
        _SAE,
        _LATENT,
        Column("rule", "VARCHAR", "", "what images show on which it fires, in words, see explanations"),
        Column("confidence", "DOUBLE", "1", "confidence of that rule"),
        Column("kind", "VARCHAR", "", "latent, or a control as long: random latent, difference of means"),
        SPLIT,
        Column("alpha", "DOUBLE", "1", "multiple of its mean activation that is added; negative: subtracted"),
        Column("chosen", "BOOLEAN", "", "whether this alpha is the best of its sign on validation images"),
        Column("on_target", "DOUBLE", "1", "share of images where the rule then holds (alpha > 0), or no longer holds"),
        Column("low", "DOUBLE", "1", "lower end of its 95 % interval (Wilson)"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("unedited", "DOUBLE", "1", "the same share of these images unedited"),
        Column("off_target", "DOUBLE", "1", "share in which another domain's label changes; null: not judged"),
        Column("odd", "DOUBLE", "1", "share out of the ordinary; null: no judge can tell"),
        Column("odd_unedited", "DOUBLE", "1", "the same share of these images unedited"),
        Column("success", "BOOLEAN", "", "on_target at least 50 %, the other two at most 10 %; null: not all judged"),
        Column("n", "BIGINT", "images", "images with this alpha"),
    ),
)
PREVALENCE = View(
    name="prevalence",
    key="blindspots_id",
    key_meaning="the artifact of `saeuron blindspots`, which holds the SAE too",
    file="prevalence.parquet",
    columns=(
        Column("latent", "UINTEGER", "index", "latent of the vision model's SAE, from 0"),
        Column("rule", "VARCHAR", "", "what pictures show on which it fires, in words; null: nothing fits"),
        Column("concepts", "VARCHAR[]", "", "the values of the rule"),
        Column("f1", "DOUBLE", "1", "F1 of the rule on pictures that it was not chosen on"),
        Column("named", "BOOLEAN", "", "whether f1 is at least 0.5"),
        Column("real", "DOUBLE", "activation", "mean over real pictures of its mean over positions"),
        Column("generated", "DOUBLE", "activation", "the same of generated pictures"),
        Column("share", "DOUBLE", "1", "generated / (generated + real); 0.5: equally often; null: never fires"),
        Column("low", "DOUBLE", "1", "lower end of the 95 % interval of share, resampled by prompt"),
        Column("high", "DOUBLE", "1", "upper end"),
        Column("delta", "DOUBLE", "1", "sigmoid of generated - real, the paper's figure"),
        Column("q", "DOUBLE", "1", "Benjamini-Hochberg's q of the difference; null: too rare to be judged"),
        Column("verdict", "VARCHAR", "", "suppressed, exaggerated (q <= 0.05, share < 1/3, > 2/3), alike or rare"),
        Column("control_share", "DOUBLE", "1", "share with real pictures on both sides"),
        Column("control", "VARCHAR", "", "the verdict there"),
        Column(
            "beside", "DOUBLE", "activation", "mean of the model beside, same prompts and noise; null: there is none"
        ),
        Column(
            "change",
            "DOUBLE",
            "1",
            "of the pictures of both on which it fires, the share that are generated; 0.5: as many",
        ),
        Column("change_low", "DOUBLE", "1", "lower end of its 95 % interval"),
        Column("change_high", "DOUBLE", "1", "upper end"),
        Column("change_q", "DOUBLE", "1", "Benjamini-Hochberg's q of the change"),
        Column("changed", "VARCHAR", "", "the verdict on the change, in the words of verdict; null: no model beside"),
        Column("n_real", "BIGINT", "images", "real pictures"),
        Column("n_generated", "BIGINT", "images", "generated pictures"),
    ),
)
PAIRS = View(
    name="pairs",
    key="blindspots_id",
    key_meaning="the artifact, see prevalence",
    file="pairs.parquet",
    columns=(
        PROMPT,
        Column("image_index", "INTEGER", "index", "which picture of the prompt, from 0; sets its noise"),
        Column("real", "VARCHAR", "", "the real picture of the prompt; null: there are no pairs"),
        Column(
            "energy",
            "DOUBLE",
            "activation^2",
            "squared distance by latents, least over shifts by a pixel; of copies almost 0",
        ),
        Column("control", "DOUBLE", "activation^2", "the same to the real picture of another prompt"),
        Column("nearest", "VARCHAR", "", "the real picture that is nearest, of any prompt"),
        Column("nearest_energy", "DOUBLE", "activation^2", "how far that one is"),
        Column("copied_below", "DOUBLE", "activation^2", "1 % of other real pictures are nearer to a real one"),
        Column("copied", "BOOLEAN", "", "whether nearest_energy is below that"),
    ),
)
OOD = View(
    name="ood",
    key="blindspots_id",
    key_meaning="the artifact, see prevalence",
    file="ood.parquet",
    columns=(
        Column("kind", "VARCHAR", "", "real, generated, or new (real, but nothing was learned from it)"),
        Column("image", "VARCHAR", "", "the real picture, or key of the generated one: PROMPT_ID_INDEX"),
        Column("score", "DOUBLE", "1", "how far from what its kind looks like to the latents"),
        Column("threshold", "DOUBLE", "1", "1 % of new real pictures are above it; null: too few were held out"),
        Column("is_ood", "BOOLEAN", "", "whether score is above it; null: no threshold"),
        Column("control", "DOUBLE", "1", "the score with its numbers shuffled over latents, without the error"),
    ),
)
