"""What the hub answers, in one line; revisions; what is fetched."""

import httpx
import pytest
from huggingface_hub import errors

from saeuron.errors import BadModel, hub_id
from saeuron.judges import create
from saeuron.pipelines import source
from saeuron.pipelines.loading import check, identity, load_pipeline
from saeuron.sae.interchange.folder import BadSAE
from saeuron.sae.interchange.source import locate


def answer(kind, status=404):
    request = httpx.Request("GET", "https://huggingface.co/some/model")
    return kind("the hub's words\nand more", response=httpx.Response(status, request=request))


ANSWERS = {
    "gated": (
        answer(errors.GatedRepoError, 403),
        "it is gated; accept its licence on https://huggingface.co/some/model",
    ),
    "missing": (answer(errors.RepositoryNotFoundError), "the hub shows no such model; check the name on https://hugg"),
    "revision": (answer(errors.RevisionNotFoundError), "it has no revision 'v9'; take one that https://huggingface.co"),
    "offline": (errors.OfflineModeIsEnabled("no"), "the hub cannot be reached, and its files are not in the cache"),
    "not cached": (errors.LocalEntryNotFoundError("no"), "the hub cannot be reached, and its files are not in the"),
    "no network": (ConnectionError("no route"), "the hub cannot be reached, and its files are not in the cache"),
    "no pipeline": (errors.EntryNotFoundError("none"), "it is not a diffusers pipeline: it lacks a file of one"),
    "else": (answer(errors.HfHubHTTPError, 500), "the hub's words"),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("function", [identity, load_pipeline])
def test_what_the_hub_answers_is_one_line(name, function, monkeypatch):
    error, said = ANSWERS[name]
    asked = []

    def fail(*args, **kwargs):
        asked.append((args[0], kwargs["revision"]))
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    check("some/model@v9")  # only the hub can tell
    with pytest.raises(BadModel) as caught:
        function("some/model@v9")
    assert str(caught.value).startswith("cannot fetch model 'some/model@v9': ") and said in str(caught.value)
    assert "\n" not in str(caught.value) and asked == [("some/model", "v9")]


@pytest.mark.parametrize("name", ["gated", "missing", "not cached"])
def test_a_judge_and_an_sae_that_the_hub_refuses_are_told_of_in_the_same_words(name, monkeypatch):
    error, said = ANSWERS[name]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(BadModel) as judge:
        _ = create("clip:some/model@v9", "style").identity
    with pytest.raises(BadSAE) as sae:
        locate("some/model@v9", "unet.mid_block")
    assert f"cannot fetch the judge's model 'some/model@v9': {said}" in str(judge.value)
    assert str(sae.value).startswith("cannot fetch SAE 'some/model@v9' from the hub") and said in str(sae.value)


def test_a_revision_of_an_sae_that_is_not_there_is_named(monkeypatch):
    error, said = ANSWERS["revision"]

    def fail(repo, revision, allow_patterns):
        assert (repo, revision) == ("some/sae", "v9")
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(BadSAE) as caught:
        locate("some/sae@v9:inner")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("judge", ["clip", "classifier"])
def test_a_judges_revision_that_is_not_there_is_named(judge, monkeypatch):
    asked, (error, said) = [], ANSWERS["revision"]

    def fail(*args, **kwargs):
        asked.append((args[0], kwargs["revision"]))
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(BadModel) as caught:
        _ = create(f"{judge}:some/model@v9", "style").identity
    assert f"cannot fetch the judge's model 'some/model@v9': {said}" in str(caught.value)
    assert "\n" not in str(caught.value) and asked == [("some/model", "v9")]


def test_what_is_no_folder_and_no_hub_id(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadModel, match=r"model\.safetensors is a file; .* from_single_file\(FILE\) of its class"):
        check(str(tmp_path / "model.safetensors"))
    with pytest.raises(BadModel, match=r"no revision after @ in 'some/model@'; expected owner/name@revision"):
        check("some/model@")


def test_a_model_of_the_hub_is_loaded_from_its_cache(tiny_model_folder, monkeypatch):
    asked = []

    def snapshot(name, **about):
        asked.append((name, about["revision"], about["local_files_only"]))
        return str(tiny_model_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, revision: tiny_model_folder / file)
    assert identity("some/model") == identity(tiny_model_folder)
    assert load_pipeline("some/model@v1").unet.config.block_out_channels == [16, 32]
    assert asked == [("some/model", None, False), ("some/model", "v1", False)]
    assert hub_id("some/model@refs/pr/1") == ("some/model", "refs/pr/1") and hub_id("some/model") == (
        "some/model",
        None,
    )
    # Checkpoints in one file beside the parts are not fetched.
    assert all("/" in pattern or pattern == "model_index.json" for pattern in source.PATTERNS)
