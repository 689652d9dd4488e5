"""Vision models: canvas's classifier, and those of Hugging Face from a folder; mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saeuron.blindspots.features import HubFeatures, check_size, features
from saeuron.canvas.classifier import judge_file, load_classifier
from saeuron.canvas.vocabularies import CANVAS20
from saeuron.errors import BadModel, ConfigError, UnknownName
from tests.saeuron.blindspots.tiny_vit import save

PICTURES = np.random.default_rng(1).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)


def test_canvas_gives_the_map_that_its_heads_read() -> None:
    seeing, model = features("canvas20"), load_classifier(judge_file(CANVAS20))
    rows = seeing.rows(PICTURES)
    x = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert rows.shape == (3, 16, 128)
    assert torch.allclose(model.object(rows.transpose(1, 2).flatten(1)), model(x)[0], atol=1e-4)
    assert seeing.identity != features("canvas").identity
    with pytest.raises(ConfigError, match="read pictures of 32 x 32 pixels, these have 8 x 9"):
        seeing.rows(np.zeros((1, 8, 9, 3), dtype=np.uint8))
    check_size("canvas", (32, 32))
    check_size("some/vit", (64, 64))


def test_a_transformer_gives_its_patches_without_the_class_token(tmp_path: Path) -> None:
    model = save(tmp_path / "vit")
    seeing = features(str(tmp_path / "vit"))
    assert isinstance(seeing, HubFeatures)
    rows = seeing.rows(PICTURES)
    assert rows.shape == (3, 16, 16)
    x = (torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        state = model(pixel_values=x).last_hidden_state
    assert torch.allclose(rows, state[:, 1:], atol=1e-4)
    again = features(str(tmp_path / "vit")).identity
    assert again == seeing.identity and again.startswith("hub-")
    save(tmp_path / "other", seed=2)
    assert features(str(tmp_path / "other")).identity != again


def test_models_that_cannot_see(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown features 'canvs': did you mean 'canvas'"):
        features("canvs")
    with pytest.raises(BadModel, match=r"no such folder: './none'; expected FOLDER or HUB_ID"):
        features("./none")
    with pytest.raises(BadModel, match=r"holds no model: config\.json is missing"):
        features(str(tmp_path))
    with pytest.raises(BadModel, match="cannot fetch the vision model 'nobody/nothing'"):
        _ = features("nobody/nothing").identity
    save(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(BadModel, match="cannot load the vision model"):
        features(str(tmp_path / "vit")).rows(PICTURES)
