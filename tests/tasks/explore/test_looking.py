"""Which latents fire on a picture that is brought, beside the same computed by hand."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saeuron.errors import ConfigError
from saeuron.noise import generator
from saeuron.pages.pictures import png_of
from saeuron.sae.autoencoder import SAE
from storage import Workspace
from tasks.engine import model
from tasks.explore import looking
from tasks.explore.looking import Look, Seen, fitted, look, looked_at, picture
from tasks.explore.shelf import Shelf
from tasks.registry import runs
from tests.sae_workspace import HOOKPOINTS, build

PROMPT = "A neon cat."


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Shelf:
    return Shelf(build(tmp_path_factory.mktemp("looked") / "workspace", tiny_model_folder))


@pytest.fixture(scope="module")
def given() -> Any:
    return np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def seen(shelf: Shelf, given: Any, told: list[tuple[int, int]]) -> tuple[Any, list[Seen]]:
    return look(shelf, Look(given, PROMPT), "cpu", lambda done, all: told.append((done, all)))


def by_hand(shelf: Shelf, shown: Any) -> dict[str, Any]:
    """{hookpoint: f, [T, P, N]} of a picture, from the network itself and the formula of the noise."""
    settings = runs.remembered(shelf.workspace).model
    pipe = model.pipeline(settings, "cpu")
    pipe.scheduler.set_timesteps(settings.steps)
    words = pipe.tokenizer(
        [PROMPT], padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    kept: dict[str, list[torch.Tensor]] = {h: [] for h in HOOKPOINTS}

    def keep(hookpoint: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            kept[hookpoint].append(tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor)

        return hook

    handles = [pipe.unet.get_submodule(h.removeprefix("unet.")).register_forward_hook(keep(h)) for h in HOOKPOINTS]
    with torch.no_grad():
        text = pipe.text_encoder(words.input_ids)[0]
        pixels = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        clean = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
        for t in sorted({int(t) for t in pipe.scheduler.timesteps}, reverse=True):
            noise = torch.randn(clean.shape[1:], generator=generator(looking.SEED, "look", t))
            a = pipe.scheduler.alphas_cumprod[t]
            pipe.unet(a**0.5 * clean + (1 - a) ** 0.5 * noise, t, encoder_hidden_states=text)
    for handle in handles:
        handle.remove()
    saes = {m.summary["hookpoint"]: SAE.load(shelf.workspace.folder(m.id)) for m in shelf.of("sae")}
    return {h: torch.stack([saes[h].encode(rows)[0] for rows in each]).numpy() for h, each in kept.items()}


def test_strengths_are_those_of_the_network_by_hand(shelf: Shelf, seen: Any, told: list[tuple[int, int]]) -> None:
    shown, found = seen
    plain = np.broadcast_to(shown.mean((0, 1)).round().astype(np.uint8), shown.shape).copy()
    of, without = by_hand(shelf, shown), by_hand(shelf, plain)
    assert [place.hookpoint for place in found] == sorted(HOOKPOINTS) and told == [(0, 2), (1, 2)]
    for place in found:
        f, g = of[place.hookpoint], without[place.hookpoint]
        strength, beside = f.max(1).mean(0), g.max(1).mean(0)
        assert place.fired and place.silent == (f.max((0, 1)) <= 0).sum()
        differences = [each.strength - each.plain for each in place.fired]
        assert differences == sorted(differences, reverse=True) and differences[-1] > 0
        assert differences[0] == pytest.approx((strength - beside).max(), abs=1e-4)
        scored = place.hookpoint == HOOKPOINTS[0]
        assert all((each.concept in ("neon", "dots")) is scored for each in place.fired)
        for each in place.fired:
            assert each.strength == pytest.approx(strength[each.latent], abs=1e-4)
            assert each.plain == pytest.approx(beside[each.latent], abs=1e-4)
            assert each.heat is not None and each.heat.max() == 255
            at = int(f[:, :, each.latent].max(1).argmax())
            assert each.heat.size == f.shape[1] and each.heat.argmax() == f[at, :, each.latent].argmax()


def test_a_plain_picture_is_nothing_but_plain(shelf: Shelf) -> None:
    grey = np.full((8, 8, 3), 90, np.uint8)
    _, found = look(shelf, Look(grey), "cpu", lambda done, all: None)
    assert all(not place.fired for place in found)


def test_the_middle_of_a_picture_is_taken_and_one_that_fits_stays(given: Any) -> None:
    assert fitted(given, 40, 50) is given
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert fitted(wide, 5, 5).shape == (5, 5, 3) and fitted(wide, 5, 5).min() > 150


def test_what_is_no_picture_is_one_line(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.array_equal(picture(png_of(given)), given)
    gif = io.BytesIO()
    Image.fromarray(given).save(gif, format="GIF")
    for data in (b"", b"<svg/>", png_of(given)[:60], gif.getvalue()):
        with pytest.raises(ConfigError, match="expected a PNG, JPEG or WEBP file"):
            picture(data)
    monkeypatch.setattr(looking, "PIXELS", 100)
    with pytest.raises(ConfigError, match="50 x 40 pixels; expected at most 100"):
        picture(png_of(given))


def test_the_newest_trained_one_of_each_hookpoint_looks(shelf: Shelf, tmp_path: Path) -> None:
    assert [m.summary["hookpoint"] for m in looked_at(shelf)] == sorted(HOOKPOINTS)
    with pytest.raises(ConfigError, match="no SAE that sees pictures"):
        looked_at(Shelf(Workspace.open(tmp_path / "empty")))
