import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import UnknownArtifact
from storage.identity import artifact_id, canonical_json, digest, split_id


def test_one_text_for_equal_values() -> None:
    assert canonical_json({"b": (1, 2.5), "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert canonical_json({"a": {"y": 1, "x": True}}) == canonical_json({"a": {"x": True, "y": 1}})
    assert canonical_json("é") == '"\\u00e9"'


@pytest.mark.parametrize("value", [{1, 2}, Path("/tmp"), np.float32(1), np.zeros(2), b"x", {1: 2}, object()])
def test_what_has_no_single_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json({"deep": [value]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match=r"\$\.a\[0\]"):
        canonical_json({"a": [value]})


def test_an_id_is_stage_version_and_hash() -> None:
    expected = hashlib.sha256(b'{"a":1}').hexdigest()[:20]
    assert artifact_id("score", 3, {"a": 1}) == f"score_v3_{expected}"
    assert split_id(artifact_id("train_sae", 12, {})) == ("train_sae", 12)
    with pytest.raises(ValueError):
        artifact_id("../x", 1, {})


@pytest.mark.parametrize(
    "text", ["", "score", "score_v1_xyz", "../score_v1_" + "0" * 20, "score_v1_" + "0" * 20 + "\n"]
)
def test_no_path_gets_through(text: str) -> None:
    with pytest.raises(UnknownArtifact):
        split_id(text)


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 500_000)
    assert digest(tmp_path / "f") == digest(b"abc" * 500_000) == hashlib.sha256(b"abc" * 500_000).hexdigest()
