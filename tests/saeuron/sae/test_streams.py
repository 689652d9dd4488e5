"""Rows in memory as a stream, and the page on SAEs, which says how to train on them."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import in_memory
from saeuron.sae.variants import VARIANTS

PAGE = (Path(__file__).parents[3] / "docs" / "saes.md").read_text()


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(count, batch, seed):
    rows = np.arange(count)[:, None]
    stream = in_memory(rows, batch, seed)
    batches = list(islice(stream(0), 7))
    assert [len(each) for each in batches] == [batch] * 7
    flat = np.concatenate(batches).ravel()
    for epoch in range(len(flat) // count):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    # From the b-th on they are the same, however it was begun.
    for start in range(7):
        np.testing.assert_array_equal(next(stream(start)), batches[start])


def test_epochs_and_seeds_differ():
    rows = np.arange(100)[:, None]
    first, second = islice(in_memory(rows, 100)(0), 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, next(in_memory(rows, 100, seed=1)(0)))


@pytest.mark.parametrize(("count", "batch"), [(0, 1), (3, 0)])
def test_a_stream_without_rows_or_batch_is_refused(count, batch):
    with pytest.raises(ValueError, match="expected at least one of each"):
        in_memory(np.zeros((count, 2)), batch)


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/saes.md", "exec"), names)  # the documentation is what is tested
    out = capsys.readouterr().out
    assert out.startswith("Point(step=60,") and "Quality(fvu=" in out and "'jumprelu'" in out
    assert out.splitlines()[-1].startswith("saelens batch_topk")
    assert (tmp_path / "my-sae" / "sae.safetensors").exists()
    f, x_hat = names["f"], names["x_hat"]
    assert isinstance(f, torch.Tensor) and f.shape == (3, 256)
    assert isinstance(x_hat, torch.Tensor) and x_hat.shape == (3, 64)


def test_the_page_names_every_variant_and_no_key_that_is_not_there():
    rows = re.findall(r"^\| `(\w+)` \(", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(VARIANTS)
    keys = re.findall(
        r"`(\w+)`",
        PAGE.split("| key of `train` |")[1].split("\n\n")[0].replace("`mixed`", "").replace("`trajectories`", ""),
    )
    assert set(keys) <= set(SAEConfig.model_fields) and len(keys) > 12
