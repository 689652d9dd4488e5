"""The protocol of the speed benchmark, with our own adapter; the libraries' environments are not there in tests."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sae import peers
from benchmarks.sae.adapters.protocol import Feed, Setup
from benchmarks.sae.peers import PEERS, Contestant, ContestantFailed, Turn
from benchmarks.sae.step import table, write_rows


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    rows = tmp_path / "rows.npy"
    write_rows(rows, batches=5, batch=32, width=16)
    return Setup(str(rows), width=16, latents=64, k=4, batch=32, steps=200, lr=1e-2, seed=0, threads=1)


def test_our_adapter_trains_and_is_timed(setup: Setup) -> None:
    with Contestant(Path(sys.executable), "ours", setup) as contestant:
        before = contestant.ask({"fvu": True})["fvu"]
        few, many = contestant.take(1), contestant.take(60)
        after = contestant.ask({"fvu": True})
    assert 0 < few.seconds < many.seconds
    assert 0 < few.cpu < many.cpu
    assert after["fvu"] < 0.8 * before


def test_what_stops_a_contestant_is_said_in_one_line(setup: Setup) -> None:
    with (
        Contestant(Path(sys.executable), "limit", replace(setup, rows="absent.npy")) as contestant,
        pytest.raises(ContestantFailed, match=r"^FileNotFoundError: .*'absent\.npy'$"),
    ):
        contestant.take(1)


def test_our_adapter_knows_its_ways_of_doing_the_step(setup: Setup) -> None:
    with Contestant(Path(sys.executable), "ours", replace(setup, variant="plain bfloat16")) as contestant:
        assert contestant.take(1).seconds > 0
    with (
        Contestant(Path(sys.executable), "ours", replace(setup, variant="fast cuda")) as contestant,
        pytest.raises(ContestantFailed, match=r"that is called cuda$"),
    ):
        contestant.take(1)


def test_a_contestant_that_cannot_start_says_its_last_words(setup: Setup) -> None:
    with (
        Contestant(Path(sys.executable), "no_such_adapter", setup) as contestant,
        pytest.raises(
            ContestantFailed, match=r"^ended with code 1: .*No module named benchmarks\.sae\.adapters\.no_such"
        ),
    ):
        contestant.take(1)


def test_the_feed_answers_between_batches_and_never_gives_the_held_out_one(setup: Setup) -> None:
    answers: list[dict[str, object]] = []
    feed = Feed(setup, iter([{"steps": 2}, {"fvu": True}, {"steps": 3}]), answers.append)
    feed.reconstruct = lambda x: 0.5 * x
    rows = np.load(setup.rows).astype(np.float32)
    seen = []
    with pytest.raises(SystemExit):
        while True:
            seen.append(next(feed).numpy())
    np.testing.assert_array_equal(seen, rows[[0, 1, 2, 3, 0]])
    assert [next(iter(answer)) for answer in answers] == ["ready", "seconds", "fvu", "seconds"]
    held = rows[-1].astype(np.float64)
    expected = 0.25 * (held**2).sum() / ((held - held.mean(0)) ** 2).sum()
    assert answers[2]["fvu"] == pytest.approx(expected, rel=1e-5)


def test_rows_are_seeded_and_hold_the_directions_and_little_noise(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        write_rows(tmp_path / name, batches=2, batch=64, width=32)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.dtype == np.float16
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a[0], a[1])
    # 16 directions of exponential magnitude: |x|^2 is 16 E[m^2] = 32 on average, up to noise and chance.
    assert 28 < np.square(a.astype(np.float64)).sum(-1).mean() < 37


def test_no_pin_is_of_a_package_that_is_linked_from_here() -> None:
    linked = peers.shared()
    assert {"torch", "numpy", "sympy"} <= linked
    for peer in PEERS.values():
        pins = f"{peer.requirement} {peer.needs}".split()
        assert all(pin.count("==") == 1 for pin in pins)
        assert not {pin.split("==")[0].lower().replace("_", "-") for pin in pins} & linked


def test_an_environment_counts_only_with_todays_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    assert peers.python_of("overcomplete") is None
    done = tmp_path / "overcomplete" / "installed.txt"
    done.parent.mkdir()
    done.write_text("overcomplete==0.1.0")
    assert peers.python_of("overcomplete") is None
    done.write_text(f"{PEERS['overcomplete'].requirement} {PEERS['overcomplete'].needs}")
    assert peers.python_of("overcomplete") == tmp_path / "overcomplete" / "bin" / "python"


def test_an_unknown_peer_is_a_usage_error_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "list", "sae-lns"])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 2
    assert "no peer is called sae-lns; did you mean sae-lens?" in capsys.readouterr().err


def test_the_table_compares_with_the_fastest_peer() -> None:
    turns = {
        "limit": [Turn(1, 2), Turn(1, 2), Turn(1, 2)],
        "ours": [Turn(2, 3), Turn(2, 4), Turn(8, 4)],
        "sae-lens": [Turn(30, 50), Turn(20, 40), Turn(20, 40)],
        "eai-sparsify": [Turn(5, 7), Turn(3, 6), Turn(4, 6)],
    }
    found = table(1000, turns, {"ours": 0.25}, product=50)
    by_name = {figure.name: figure for figure in found}
    assert (by_name["ours"].value, by_name["ours"].baseline, by_name["ours"].ratio) == (500, 250, 2)
    start = found.index(by_name["ours"])
    spread = {figure.name: figure.value for figure in found[start + 1 : start + 5]}
    assert spread == {
        "  slowest round": 125,
        "  fastest round": 500,
        "  CPU time": 4,
        "  held-out FVU at the end": 0.25,
    }
    assert by_name["sae-lens"].ratio == pytest.approx(0.2)
    assert by_name["limit, all of it product"].value == 50
    assert by_name["ours: share of the limit"].value == 0.5
    assert by_name["ours over eai-sparsify, the fastest peer"].value == 2
    last = {figure.name: figure.value for figure in found[-3:]}
    assert last == {"  least of a round": 0.5, "  most of a round": 2.5, "  by CPU time": 1.5}
