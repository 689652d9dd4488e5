"""What the hub answers, in one line; revisions; what is fetched."""

import httpx
import pytest
from huggingface_hub import errors

from saeuron.errors import BadModel
from saeuron.pipelines import source
from saeuron.pipelines.loading import check, identity, load_pipeline


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
    assert source.hub_id("some/model@refs/pr/1") == ("some/model", "refs/pr/1")
    # Checkpoints in one file beside the parts are not fetched.
    assert all("/" in pattern or pattern == "model_index.json" for pattern in source.PATTERNS)
