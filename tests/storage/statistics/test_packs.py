from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ArtifactDamaged
from storage.statistics import packs
from storage.statistics.packs import LOOSE, in_use, to_pack, write_pack
from storage.statistics.sums import STATISTICS_SCHEMA, write_statistics
from tests.storage.conftest import random_sums


def test_a_pack_holds_the_rows_of_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several row groups of each, of different numbers of steps, that do not end where the pack's do.
    monkeypatch.setattr(packs, "ROW_GROUP", 700)
    steps = {"c": (20, 40), "a": (20,), "b": (1, 2, 3)}
    sums = {name: random_sums(i, steps[name], 1100) for i, name in enumerate(steps)}
    for name, each in sums.items():
        write_statistics(tmp_path / name, each)
    for folder in ("pack", "again"):
        write_pack(tmp_path / folder, {name: tmp_path / name for name in steps})
    file = pq.ParquetFile(tmp_path / "pack" / "by_latent.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(sizes) == 6 * 1100 and set(sizes[:-1]) == {700}
    found = file.read().to_pylist()
    places = [(row["latent"], row["member"], row["timestep"]) for row in found]
    assert places == sorted(places)
    slow = [
        {
            "member": member, "timestep": int(t), "latent": latent, "n_rows": int(each.n_rows[i]),
            "n_images": int(each.n_images[i]),
            **{name: getattr(each, name)[i, latent].item() for name in STATISTICS_SCHEMA.names[2:]},
        }
        for member, each in enumerate(sums[name] for name in "abc")
        for i, t in enumerate(each.timesteps)
        for latent in range(1100)
    ]  # fmt: skip
    key = lambda row: (row["latent"], row["member"], row["timestep"])  # noqa: E731
    assert found == sorted(slow, key=key)
    first, second = ((tmp_path / folder / "by_latent.parquet").read_bytes() for folder in ("pack", "again"))
    assert first == second


def test_members_of_other_sizes_and_damage(tmp_path: Path) -> None:
    for name, latents in (("a", 1100), ("b", 100)):
        write_statistics(tmp_path / name, random_sums(1, latents=latents))
    with pytest.raises(ArtifactDamaged, match="as many latents"):
        write_pack(tmp_path / "pack", {name: tmp_path / name for name in "ab"})
    assert not (tmp_path / "pack" / "by_latent.parquet").exists()
    (tmp_path / "b" / "by_latent.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactDamaged, match="a Parquet file"):
        write_pack(tmp_path / "pack", {name: tmp_path / name for name in "ab"})
    (tmp_path / "b" / "by_latent.parquet").write_bytes((tmp_path / "a" / "statistics.parquet").read_bytes())
    with pytest.raises(ArtifactDamaged, match="columns"):
        write_pack(tmp_path / "pack", {name: tmp_path / name for name in "ab"})


def test_there_are_no_more_row_groups_than_needed(tmp_path: Path) -> None:
    for i in range(3):
        write_statistics(tmp_path / str(i), random_sums(i, tuple(range(50)), 2000))
    write_pack(tmp_path, {str(i): tmp_path / str(i) for i in range(3)})
    assert pq.ParquetFile(tmp_path / "by_latent.parquet").num_row_groups == int(np.ceil(300_000 / packs.ROW_GROUP))


@given(st.lists(st.integers(1, 30), max_size=60))
def test_few_files_are_open_and_each_concept_is_written_seldom(steps: list[int]) -> None:
    """Concepts join in any portions; after each a pack is made if there is one to make, and old ones stay about."""
    packs: dict[str, set[str]] = {}
    there: list[str] = []
    written = 0
    for count in steps:
        there += [f"{len(there) + i:05d}" for i in range(count)]
        if new := to_pack(there, packs):
            packs[f"pack {len(packs)}"] = set(new)
            written += len(new)
        used = in_use(packs)
        held = [member for name in used for member in packs[name]]
        assert len(held) == len(set(held)), "no row is shown twice"
        loose = len(there) - len(held)
        assert loose < LOOSE
        assert len(used) <= 1 + np.log2(max(1, len(there) / LOOSE)) * 1.0001
    assert written <= len(there) * (2 + np.log2(max(1, len(there) / LOOSE)))


def test_packs_that_were_taken_in_are_not_read(tmp_path: Path) -> None:
    packs = {"old": {"a", "b"}, "new": {"a", "b", "c"}, "other": {"d"}, "none": set()}
    assert in_use(packs) == ["new", "other"]
    assert in_use({}) == [] and to_pack([], {}) == []


def test_those_that_are_gone_are_not_packed_again() -> None:
    there = [f"{i}" for i in range(LOOSE)]
    assert to_pack(there, {"pack": {"gone", there[0]}}) == []
    assert to_pack([*there, "x"], {"pack": {"gone", there[0]}}) == sorted([*there, "x"])
