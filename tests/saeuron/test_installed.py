"""Entry points of installed packages: two of one name in a group are refused, whichever room the group belongs to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saeuron import installed, judges, methods, pipelines
from saeuron.errors import ConfigError
from tasks import stages
from tests.end_to_end.process import TINY, run_here

ROOMS: dict[str, Callable[[], object]] = {
    methods.GROUP: methods.names,
    judges.GROUP: judges.names,
    pipelines.GROUP: pipelines.names,
    stages.GROUP: stages.every,
}


def install(folder: Path, package: str, group: str, value: str) -> None:
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\ntwin = {value}\n")


def forget() -> None:
    installed.entries.cache_clear()
    stages._installed.cache_clear()


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of installed packages, for as long as a test lasts."""
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("group", ROOMS)
def test_two_entry_points_of_one_name_are_a_mistake_that_names_both(site: Path, group: str) -> None:
    install(site, "first", group, "first:Twin")
    install(site, "second", group, "second:Twin")
    with pytest.raises(ConfigError, match=rf"entry point 'twin' of the group {group}: first:Twin and second:Twin; "):
        ROOMS[group]()


def test_the_same_entry_point_of_two_packages_is_one(site: Path) -> None:
    install(site, "first", judges.GROUP, "first:Twin")
    install(site, "second", judges.GROUP, "first:Twin")
    assert "twin" in judges.names()


def test_a_command_ends_with_2(site: Path) -> None:
    install(site, "first", methods.GROUP, "first:Twin")
    install(site, "second", methods.GROUP, "second:Twin")
    done = run_here("run", TINY, "-w", site / "w", "--set", "method=twin", "--plan")
    assert done.code == 2 and "first:Twin and second:Twin" in done.complaint
