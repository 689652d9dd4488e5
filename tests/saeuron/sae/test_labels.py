"""Concept labels of rows, and their way to the variants that learn from them."""

import itertools

import numpy as np
import pytest
import torch

import saeuron
from saeuron.errors import ConfigError, SaeuronError
from saeuron.sae.config import LABELLED, SAEConfig
from saeuron.sae.labels import concepts_of, ids
from saeuron.sae.streams import Labelled, in_memory
from saeuron.sae.training import Trainer, together, train
from saeuron.sae.variants import VARIANTS, LabelledTopK
from tests.saeuron.sae.variants.labels import CONCEPTS, drawn

ASKED = [{"b": "v", "a": "z"}, {"a": "x"}, {}, {"a": "y", "b": "u"}]
SMALL = SAEConfig(variant="topk", expansion=6, k=2, batch=32, steps=30, lr=1e-2, dead_rows=64, checkpoint_every=13)
ROWS, TOLD = (each.numpy() for each in drawn(400))


def changed(**changes):
    return SMALL.model_copy(update=changes)


def test_concepts_are_sorted_and_labels_are_their_places():
    assert concepts_of(ASKED) == CONCEPTS and list(concepts_of(ASKED)) == ["a", "b"]
    assert ids(ASKED, CONCEPTS).tolist() == [[2, 1], [0, -1], [-1, -1], [1, 0]]
    assert ids([{"a": "unheard of"}], CONCEPTS).tolist() == [[-1, -1]]
    assert ids([], CONCEPTS).shape == (0, 2) and ids(ASKED, {}).shape == (4, 0)


def test_a_stream_in_memory_has_the_same_rows_with_labels_and_those_of_each_row():
    of_row = {row.tobytes(): told.tolist() for row, told in zip(ROWS, TOLD, strict=True)}
    plain, told = in_memory(ROWS, 30, seed=4), in_memory(ROWS, 30, seed=4, labels=TOLD)
    for start in (0, 17):
        for rows, batch in itertools.islice(zip(plain(start), told(start), strict=False), 20):
            assert isinstance(batch, Labelled) and np.array_equal(rows, batch.rows)
            assert batch.labels.tolist() == [of_row[row.tobytes()] for row in batch.rows]
    for odd in (TOLD[1:], TOLD[:, 0]):
        with pytest.raises(ValueError, match=r"labels \(\d+,.*\) of 400 rows; expected \[400, domains\]"):
            in_memory(ROWS, 30, labels=odd)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_others_end_with_the_same_bytes_on_rows_with_labels(tmp_path, variant):
    if variant in LABELLED:
        assert issubclass(VARIANTS[variant], LabelledTopK) and changed(variant=variant).needs_labels
        return
    ends = [
        train(changed(variant=variant), in_memory(ROWS, 32, labels=labels), 8, "h", checkpoint=tmp_path / name)
        for name, labels in (("plain", None), ("told", TOLD))
    ]
    plain, told = ({**t.variant.state_dict()} for t in ends)
    assert all(torch.equal(value, told[name]) for name, value in plain.items())
    assert ends[0].history == ends[1].history and not ends[0].concepts
    assert "assigned" not in ends[0].config.identity and "contrastive" not in ends[0].config.identity


@pytest.mark.parametrize("variant", LABELLED)
def test_each_ends_as_it_would_alone_and_resumes_from_a_file(tmp_path, variant):
    """Among others, at two hookpoints of one stream, each with labels of its own."""
    other, turned = ROWS[:, :4] * 3, np.ascontiguousarray(TOLD[::-1])
    config = changed(variant=variant)
    streams = {"one": in_memory(ROWS, 32, labels=TOLD), "two": in_memory(other, 32, seed=1, labels=turned)}
    alone = {
        "one": train(config, streams["one"], 8, "one", checkpoint=tmp_path / "a", concepts=CONCEPTS),
        "two": train(config, streams["two"], 4, "two", checkpoint=tmp_path / "b", concepts=CONCEPTS),
        "topk": train(SMALL, streams["one"], 8, "one", checkpoint=tmp_path / "c"),
    }

    def both(start):
        for one, two in zip(streams["one"](start), streams["two"](start), strict=True):
            yield {"one": one, "two": two}

    found = {
        "one": Trainer(config, 8, "one", concepts=CONCEPTS),
        "two": Trainer(config, 4, "two", concepts=CONCEPTS),
        "topk": Trainer(SMALL, 8, "one"),
    }
    first = next(both(0))
    for trainer in found.values():
        trainer.initialise(torch.from_numpy(first[trainer.hookpoint].rows))
    together(list(found.values()), both, {0: tmp_path / "saved"})
    for name, trainer in found.items():
        for key, value in alone[name].variant.state_dict().items():
            assert torch.equal(value, trainer.variant.state_dict()[key]), (name, key)
        assert trainer.history == alone[name].history
    resumed = Trainer(config, 8, "one", concepts=CONCEPTS)
    resumed.load(tmp_path / "saved")
    assert resumed.step_index in (13, 26)
    together([resumed], streams["one"], {})
    assert all(torch.equal(v, resumed.variant.state_dict()[k]) for k, v in alone["one"].variant.state_dict().items())
    # Labels matter: with others it is another SAE.
    swapped = train(config, in_memory(ROWS, 32, labels=turned), 8, "one", checkpoint=tmp_path / "d", concepts=CONCEPTS)
    assert not torch.equal(swapped.variant.W_enc, alone["one"].variant.W_enc)


@pytest.mark.parametrize("variant", LABELLED)
def test_bare_arrays_are_refused_in_one_line(variant, tmp_path):
    stream = in_memory(ROWS, 32)
    with pytest.raises(ConfigError) as refused:
        saeuron.train({"h": ROWS}, variant=variant, expansion=6, k=2, batch=32, steps=30)
    assert str(refused.value) == (
        f"train.variant {variant!r} learns from concept labels, but the rows at h have none; expected rows of a "
        "capture whose prompts name concepts (`saeuron run`): use that, or a variant other than assigned and "
        "contrastive, such as topk."
    )
    read = []
    with pytest.raises(ConfigError, match="learns from concept labels"):
        train(changed(variant=variant), lambda start: read.append(start), 8, "h", checkpoint=tmp_path / "c")
    assert not read, "before a row is read"
    with pytest.raises(SaeuronError, match=f"for the variant '{variant}': got none, expected int64"):
        train(changed(variant=variant), stream, 8, "h", checkpoint=tmp_path / "c", concepts=CONCEPTS)


@pytest.mark.parametrize("variant", LABELLED)
def test_of_scaled_rows_it_trains_the_same(tmp_path, variant):
    config, fvus = changed(variant=variant, normalize=True, auxk_alpha=0), []
    for scale in (2.0**-7, 1.0, 2.0**7):
        stream = in_memory(ROWS * np.float32(scale), 32, labels=TOLD)
        trainer = train(config, stream, 8, "h", checkpoint=tmp_path / f"{scale}", concepts=CONCEPTS)
        fvus.append([point.fvu for point in trainer.history])
    np.testing.assert_allclose(fvus[1:], [fvus[0]] * 2, rtol=1e-4)


@pytest.mark.parametrize("variant", LABELLED)
def test_the_paths_and_precisions_agree(variant):
    ends = []
    for path, precision in (("plain", "float32"), ("fast", "float32"), ("fast", "bfloat16")):
        trainer = Trainer(changed(variant=variant, precision=precision), 8, "h", path=path, concepts=CONCEPTS)
        trainer.initialise(torch.from_numpy(ROWS[:32]))
        for i in range(12):
            trainer.step(torch.from_numpy(ROWS[32 * i : 32 * i + 32]), torch.from_numpy(TOLD[32 * i : 32 * i + 32]))
        ends.append(trainer.variant.W_enc)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)
    assert 0 < (ends[1] - ends[2]).abs().mean() < 0.05 * ends[1].abs().mean()
