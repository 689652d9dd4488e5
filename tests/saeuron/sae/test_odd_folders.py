"""Configurations that no library writes: each is one line, and none leads out of a folder."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from saeuron.sae.interchange import BadSAE, read, write
from tests.saeuron.sae.folders import HOOK, SAELENS, SPARSIFY, changed, complaint, some_sae

NUMBER, NULL = (int, float), type(None)
ODD = (2.5, True, None, "no", "", [], ["a"], {}, {"a": 1}, [[0] * 1000])
"""Values of every type that JSON has."""
FIELDS = {
    "saelens": {
        **dict.fromkeys(("d_in", "d_sae", "k", "activation_fn_kwargs.k", "metadata.saeuron.k"), NUMBER),
        **dict.fromkeys(("architecture", "reshape_activations", "metadata.saeuron.variant"), (str,)),
        **dict.fromkeys(("activation_fn", "activation_fn_str", "hook_name", "hook_point"), (str, NULL)),
        **dict.fromkeys(("metadata.hook_name", "metadata.training_architecture"), (str, NULL)),
        **dict.fromkeys(("activation_fn_kwargs", "metadata", "metadata.saeuron"), (dict, NULL)),
        **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), (bool,)),
        "metadata.training_architecture_details": (dict, NULL),
        "metadata.training_architecture_details.k": NUMBER,
        "normalize_activations": (str, bool, NULL),
        "finetuning_scaling_factor": (bool, NULL),
        "hook_point_layer": (int, list, NULL),
    },
    "sparsify": {
        **dict.fromkeys(("d_in", "k", "num_latents", "expansion_factor"), NUMBER),
        **dict.fromkeys(("batch_topk", "sample_topk", "input_unit_norm", "transcode", "skip_connection"), (bool,)),
        "signed": (bool,),
        "activation": (str,),
    },
    "saeuron": {
        **dict.fromkeys(("width", "n_latents", "k"), (int,)),
        **dict.fromkeys(("variant", "hookpoint", "activation"), (str,)),
    },
}
FIELDS["cfg.json"] = FIELDS["saeuron"]
"""Of each reader, every field that it reads and the types it takes; ours read those in the weights, or else beside."""


def folder_of(kind, tmp_path):
    """One that reads well, and its fields."""
    folder = tmp_path / kind
    if kind in ("saelens", "sparsify"):
        shutil.copytree({"saelens": SAELENS / "topk_rescaled", "sparsify": SPARSIFY / "topk"}[kind], folder)
    else:
        write(some_sae("topk"), folder, "saeuron")
    fields = json.loads((folder / "cfg.json").read_text())
    say(kind, folder, fields)
    return folder, fields


def say(kind, folder, fields):
    """Put fields where the reader looks for them."""
    if kind == "saeuron":
        save_file(load_file(folder / "sae.safetensors"), folder / "sae.safetensors", {"json": json.dumps(fields)})
        return
    if kind == "cfg.json":
        save_file(load_file(folder / "sae.safetensors"), folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(fields))


def with_field(fields, field, value):
    """A copy of fields, one changed; `a.b` is b of the object a."""
    first, _, rest = field.partition(".")
    return {**fields, first: with_field(fields.get(first) or {}, rest, value) if rest else value}


class TestOddFields:
    @pytest.mark.parametrize("kind", FIELDS)
    def test_the_folders_read_well_as_they_are(self, kind, tmp_path):
        folder, fields = folder_of(kind, tmp_path)
        assert read(folder).sae.info.k == fields["k"]

    @pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in FIELDS.items() for field in fields])
    def test_of_every_type_they_are_read_or_refused_in_one_line(self, kind, field, tmp_path):
        folder, fields = folder_of(kind, tmp_path)
        for value in ODD:
            say(kind, folder, with_field(fields, field, value))
            if type(value) not in FIELDS[kind][field]:
                assert f" {field} " in complaint(read, folder), value
                continue
            try:
                read(folder)
            except BadSAE:
                complaint(read, folder)

    @pytest.mark.parametrize(
        "value", [-1, 0, 10**12, 10**30, 10**4000, 1e300, float("nan"), float("inf")], ids=lambda n: repr(n)[:12]
    )
    @pytest.mark.parametrize(
        ("kind", "field"),
        [(kind, field) for kind, fields in FIELDS.items() for field in fields if int in fields[field]],
    )
    def test_numbers_of_every_size(self, kind, field, value, tmp_path):
        folder, fields = folder_of(kind, tmp_path)
        say(kind, folder, with_field(fields, field, value))
        try:
            read(folder)
        except BadSAE:
            complaint(read, folder)
        else:
            # What is not read, beside what is; or the 0 that stands for what nobody knows.
            assert field.count(".") or field in ("hook_point_layer", "expansion_factor")

    @pytest.mark.parametrize("value", [*ODD[1:], -1, 10**400, float("inf")], ids=lambda value: repr(value)[:12])
    def test_a_scale(self, value, tmp_path):
        folder, _ = folder_of("saelens", tmp_path)
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": value}))
        assert "scal" in complaint(read, folder)

    @pytest.mark.parametrize("text", ["[1]", "[]", "5", "null", '"no"', "true", "{", "", "[" * 100_000])
    def test_metadata_that_are_no_object(self, text, tmp_path):
        folder, _ = folder_of("saeuron", tmp_path)
        save_file(load_file(folder / "sae.safetensors"), folder / "sae.safetensors", {"json": text})
        complaint(read, folder)
        complaint(read, folder, HOOK)

    def test_a_configuration_nested_too_deeply(self, tmp_path):
        folder, _ = folder_of("saelens", tmp_path)
        (folder / "cfg.json").write_text("[" * 100_000)
        assert "is not JSON" in complaint(read, folder)

    def test_a_name_that_cannot_be_shown(self, tmp_path):
        for kind, field in (("saelens", "metadata.saeuron.variant"), ("saeuron", "variant")):
            folder, fields = folder_of(kind, tmp_path)
            for name in ("a\nb", "\ud800", "\x1b[2J"):
                say(kind, folder, with_field(fields, field, name))
                assert "expected a name" in complaint(read, folder)

    def test_a_fraction_of_k_is_how_saelens_trained_a_threshold(self, tmp_path):
        details = {"training_architecture_details": {"k": 4.4}}
        assert read(changed(tmp_path, SAELENS / "batchtopk", metadata=details)).sae.info.k == 4


class TestHookpoints:
    GOOD = (
        "blocks.5.hook_resid_post",
        "blocks.8.attn.hook_z",
        "hook_embed",
        "layers.5.mlp",
        HOOK,
        f"{HOOK}.my-adapter",
        f"{HOOK}:input",
    )
    SAID = (
        *(("saelens", field) for field in ("metadata.hook_name", "hook_name", "hook_point")),
        *((kind, "hookpoint") for kind in ("saeuron", "cfg.json")),
    )
    BAD = ("../../outside", "/outside", "..", ".", "a/b", "a\\b", "a..b", ".a", "a.", "a b", "a\n", "~", "a/" * 500)

    def saying(self, hookpoint, tmp_path):
        """Folders that say it, each in another place."""
        for kind, field in self.SAID:
            folder, fields = folder_of(kind, tmp_path / field)
            fields = fields | {"metadata": None} if kind == "saelens" else fields
            say(kind, folder, with_field(fields, field, hookpoint))
            yield folder

    @pytest.mark.parametrize("hookpoint", GOOD)
    def test_the_names_of_modules(self, hookpoint, tmp_path):
        for folder in self.saying(hookpoint, tmp_path):
            assert read(folder).sae.info.hookpoint == hookpoint
        for kind in FIELDS:
            folder, _ = folder_of(kind, tmp_path / "given")
            assert read(folder, hookpoint).sae.info.hookpoint == hookpoint

    @pytest.mark.parametrize("hookpoint", BAD)
    def test_an_unsafe_hookpoint_is_refused_unless_another_is_given(self, hookpoint, tmp_path):
        for folder in self.saying(hookpoint, tmp_path):
            message = complaint(read, folder)
            assert "expected a module's dotted name" in message and "--hookpoint" in message
            assert read(folder, HOOK).sae.info.hookpoint == HOOK
        for kind in FIELDS:
            folder, _ = folder_of(kind, tmp_path / "given")
            assert "expected a module's dotted name" in complaint(read, folder, hookpoint)

    def test_an_early_name_for_several_layers(self, tmp_path):
        folder, fields = folder_of("saelens", tmp_path)
        early = fields | {"metadata": None, "hook_point": "blocks.{layer}.hook_mlp_out"}
        say("saelens", folder, early | {"hook_point_layer": 3})
        assert read(folder).sae.info.hookpoint == "blocks.3.hook_mlp_out"
        for layer in ([3, 4], None):
            say("saelens", folder, early | {"hook_point_layer": layer})
            assert "hookpoint 'blocks.{layer}.hook_mlp_out'" in complaint(read, folder)
