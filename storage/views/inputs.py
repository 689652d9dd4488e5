"""Views of what removals are made from: prompts, captures, SAEs."""

from __future__ import annotations

from storage.declared import Column, View
from storage.views.common import DOMAIN, HALF, HOOKPOINT, SPLIT

PROMPTS = View(
    name="prompts",
    key="prompt_set_id",
    file="prompts.parquet",
    columns=(
        Column("prompt_id", "VARCHAR", "", "the prompt, within its set"),
        Column("text", "VARCHAR", "", "what the model is told"),
        SPLIT,
        Column("concepts", "MAP(VARCHAR, VARCHAR)", "", "concept that the prompt asks for, by domain"),
        Column("seed", "BIGINT", "", "seed of its first image's noise, if it brings one"),
        Column("guidance", "DOUBLE", "", "guidance scale of its images, if it brings one"),
        Column("source", "VARCHAR", "", "the benchmark's file it comes from; empty for others"),
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
DESCRIPTIONS = View(
    name="descriptions",
    key="description_id",
    key_meaning="the artifact of `saeuron sae explain --import`",
    file="descriptions.parquet",
    columns=(
        HOOKPOINT,
        Column("sae_id", "VARCHAR", "", "the SAE, see saes"),
        Column("latent", "UINTEGER", "index", "latent of the SAE, from 0"),
        Column("description", "VARCHAR", "", "what somebody says of it, in words of their own"),
        Column("rule", "VARCHAR", "", "what that claims of images, in words"),
        Column("precision", "DOUBLE", "1", "of the test images where the claim holds, the share on which it fires"),
        Column("recall", "DOUBLE", "1", "of the test images on which it fires, the share where the claim holds"),
        Column("f1", "DOUBLE", "1", "harmonic mean of precision and recall"),
        Column("confidence", "DOUBLE", "1", "harmonic mean of the lower ends of their 95 % intervals"),
        Column("balanced_accuracy", "DOUBLE", "1", "mean of recall and of the silent images' share without the claim"),
        Column("automatic_f1", "DOUBLE", "1", "F1 of the rule that was found for it, on the same images"),
        Column("other_f1", "DOUBLE", "1", "control: F1 of the same claim for another latent"),
        Column("fires", "BIGINT", "images", "test images on which it fires"),
        Column("holds", "BIGINT", "images", "test images where the claim holds"),
        Column("images", "BIGINT", "images", "test images"),
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
EXPLANATIONS = View(
    name="explanations",
    key="explanation_id",
    key_meaning="the artifact of `saeuron sae explain`",
    file="explanations.parquet",
    columns=(
        HOOKPOINT,
        Column("kind", "VARCHAR", "", "trained; its controls frozen and untrained; neurons"),
        Column("sae_id", "VARCHAR", "", "the SAE, see saes; null for neurons"),
        Column("latent", "UINTEGER", "index", "latent of the SAE, from 0"),
        Column("rule", "VARCHAR", "", "what images show on which it fires, in words; null: it fires on none"),
        Column("form", "VARCHAR", "", "one value, both of two of different domains, any of 2 to 4 of one domain"),
        Column("domain", "VARCHAR", "", "the domain of the rule's values; null: two domains, or no rule"),
        Column("concepts", "VARCHAR[]", "", "the rule's values; empty: no rule"),
        Column("threshold", "DOUBLE", "activation", "it fires on images where its strength is above this"),
        Column("chosen_f1", "DOUBLE", "1", "F1 on the validation images that the rule was chosen on"),
        Column("precision", "DOUBLE", "1", "of the test images where the rule holds, the share on which it fires"),
        Column("recall", "DOUBLE", "1", "of the test images on which it fires, the share where the rule holds"),
        Column("f1", "DOUBLE", "1", "harmonic mean of precision and recall"),
        Column("confidence", "DOUBLE", "1", "harmonic mean of the lower ends of their 95 % intervals"),
        Column("balanced_accuracy", "DOUBLE", "1", "mean of recall and of the silent images' share without the rule"),
        Column("shuffled_f1", "DOUBLE", "1", "control: F1 of the rule chosen from shuffled labels"),
        Column("fires", "BIGINT", "images", "test images on which it fires"),
        Column("holds", "BIGINT", "images", "test images where the rule holds"),
        Column("images", "BIGINT", "images", "test images"),
    ),
)
