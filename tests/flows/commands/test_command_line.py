"""The commands: help with examples, quick to start; tables that align; Prefect's settings."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import click
import pytest
import typer
from typer.testing import CliRunner

from flows import cli, environment
from flows.cli import app
from flows.config import load
from flows.summary import text_table
from flows.work import Work
from saeuron import __version__
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, OtherModel
from storage import Workspace
from tasks.registry import runs
from tests.end_to_end.process import run_here
from tests.flows.deploy.test_notify import Listener


def commands() -> Iterator[tuple[str, click.Command]]:
    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name.strip(), command
        for key, sub in (inner or {}).items():
            if not sub.hidden:
                yield from walk(f"{name} {key}", sub)

    yield from walk("", typer.main.get_command(app))


COMMANDS = dict(commands())


def test_a_warning_of_our_own_is_one_line() -> None:
    assert cli._warning(OtherModel("made for another"), OtherModel, "a.py", 3) == "saeuron: made for another\n"
    assert "a.py:3: UserWarning: x" in cli._warning(UserWarning("x"), UserWarning, "a.py", 3)


def test_the_version_and_a_short_option_for_help() -> None:
    assert run_here("--version").out == f"saeuron {__version__}\n"
    for words in ((), ("sae",), ("sae", "info")):
        assert run_here(*words, "-h").out == run_here(*words, "--help").out


class TestWorkspace:
    """Where a command looks for its workspace."""

    @pytest.fixture(autouse=True)
    def outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SAEURON_WORKSPACE", raising=False)
        (tmp_path / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a" / "b")

    def status(self, *words: object) -> str:
        done = run_here("status", *words)
        assert done.code == 0, done.err
        return done.out.splitlines()[0].removeprefix("workspace: ")

    def test_the_nearest_above(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "there is no such folder" in run_here("status").err
        far, near = Workspace.open(tmp_path / "workspace"), tmp_path / "a" / "workspace"
        assert self.status() == str(far.root)
        Workspace.open(near)
        assert self.status() == str(near)
        monkeypatch.chdir(far.root / "locks" if (far.root / "locks").exists() else far.root)
        assert self.status() == str(far.root)

    def test_one_that_is_named_is_not_looked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Workspace.open(tmp_path / "workspace")
        other = Workspace.open(tmp_path / "other")
        assert "there is no such folder" in run_here("status", "-w", "workspace").err
        monkeypatch.setenv("SAEURON_WORKSPACE", str(other.root))
        assert self.status() == str(other.root)
        assert self.status("-w", tmp_path / "workspace") == str(tmp_path / "workspace")

    def test_bench_has_a_folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A workspace that other commands use would get SAEs and removals that its configuration does not know."""
        other = Workspace.open(tmp_path / "other")
        monkeypatch.setenv("SAEURON_WORKSPACE", str(other.root))
        seen = []

        def carry_out(config: object, place: Path, *rest: object, **more: object) -> object:
            seen.append(place)
            raise typer.Exit(0)

        monkeypatch.setattr("flows.commands.run.carry_out", carry_out)
        run_here("bench", "canvas", "uce")
        run_here("bench", "canvas", "uce", "-w", tmp_path / "mine")
        assert seen == [Path("workspace-bench"), tmp_path / "mine"]


class TestLists:
    @pytest.mark.parametrize("words", ["runs", "run list", "sae list", "removal list"])
    def test_of_an_empty_workspace(self, tmp_path: Path, words: str) -> None:
        Workspace.open(tmp_path / "w")
        place = (*words.split(), "-w", tmp_path / "w")
        assert "(0 " in run_here(*place).out
        assert json.loads(run_here(*place, "--json").out) == []

    @pytest.mark.parametrize("words", ["sql 'select number from runs'", "runs"])
    def test_says_that_rows_are_left_out(self, tmp_path: Path, words: str) -> None:
        workspace, config = Workspace.open(tmp_path / "w"), load("canvas")
        for _ in range(2):
            runs.start(workspace, "pipeline", config)
        place = ("-w", workspace.root)
        assert run_here(*shlex.split(words), *place).err == ""
        next(workspace.runs.glob("*.json")).write_text("{")
        done = run_here(*shlex.split(words), *place)
        assert done.code == 0 and "(1 r" in done.out
        assert done.err == (
            "note: 1 artifact or record is damaged, and the views lack the rows; this tells which: "
            f"saeuron verify -w {workspace.root}\n"
        )

    def test_runs(self, tmp_path: Path) -> None:
        workspace, config = Workspace.open(tmp_path / "w"), load("canvas")
        for state in ("completed", "failed"):
            runs.finish(workspace, runs.start(workspace, "pipeline", config), state, {"made": 3, "failed": 1})
        rows = json.loads(run_here("runs", "-w", workspace.root, "--json").out)
        assert [(row["number"], row["state"], row["made"]) for row in rows] == [(2, "failed", 3), (1, "completed", 3)]
        assert "(2 runs" in run_here("runs", "-w", workspace.root).out


def test_adding_a_concept_says_what_it_made_outdated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace.open(tmp_path / "w")
    (tmp_path / "wood.yaml").write_text("name: wood\ndomain: style\n")
    stale = {("neon", "saeuron"): True, ("neon", "steering"): True, ("dots", "saeuron"): False}
    monkeypatch.setattr("flows.work.add_concept", lambda *_: Work(None, ["wood"]))
    monkeypatch.setattr("flows.commands.concept.run_pipeline", lambda *_, **__: None)
    monkeypatch.setattr("flows.upkeep.refresh.outdated", lambda _: stale)
    add = ("concept", "add", tmp_path / "wood.yaml", "-w", tmp_path / "w")
    assert run_here(*add).out == (
        f"outdated removals: neon; compute them again with: saeuron concept refresh --all -w {tmp_path / 'w'}\n"
    )
    assert run_here(*add, "--json").out == ""


class TestRemove:
    def test_an_unknown_concept_makes_no_workspace(self, tmp_path: Path) -> None:
        done = run_here("remove", "noen", "-w", tmp_path / "w")
        assert done.code == 2 and "unknown concept 'noen': did you mean 'neon'" in done.complaint
        assert not (tmp_path / "w").exists()

    def test_what_it_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        called = []

        def noted(config: RunConfig, place: Path, concepts: list[str] | None, *_: object, **more: object) -> None:
            called.append((config.tune.concepts, concepts, more.get("keep_config", True)))

        monkeypatch.setattr("flows.commands.run.run_pipeline", noted)
        assert run_here("remove", "neon", "-w", tmp_path / "w").code == 0
        runs.remember(Workspace.open(tmp_path / "w"), load("canvas", ["tune.concepts=[dots]"]))
        assert run_here("remove", "neon", "-w", tmp_path / "w").code == 0
        assert called == [(("neon",), None, True), (("dots",), ["neon"], False)]


@pytest.mark.parametrize(("option", "value"), [("--steps", "5000"), ("--steps", "0"), ("--guidance", "-1")])
def test_a_value_outside_its_range_is_refused_before_anything_is_loaded(option: str, value: str) -> None:
    done = run_here("generate", "A cat.", option, value)
    assert done.code == 2 and done.complaint.startswith(f"saeuron: {option} {value}: expected a value ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("staus", "no such command 'staus'; did you mean 'status'; see saeuron --help"),
        ("concept shw", "no such command 'shw'; did you mean 'show'; see saeuron concept --help"),
        ("run --plam", "no such option: --plam (Possible options: --plan); see saeuron run --help"),
        ("run --threads", "option '--threads' requires an argument; see saeuron run --help"),
        ("status more", "got unexpected extra argument(s) (more); see saeuron status --help"),
        ("removal export", "CONCEPT is missing; expected: Concept whose removal is exported."),
        ("runs --threads two", "no such option: --threads; see saeuron runs --help"),
        ("explore --threads two", "--threads two: expected a valid integer (Torch threads on the CPU)."),
        ("sql x --format xls", "--format xls: expected one of 'table', 'csv', 'json', 'parquet' (Format"),
    ],
)
def test_words_that_no_command_takes_are_one_line(words: str, said: str) -> None:
    done = run_here(*words.split())
    assert done.code == 2 and done.complaint.startswith(f"saeuron: {said}"), done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", ""], "CONFIG"),
        (["compare", "--methods", ""], "--methods"),
        (["status", "-w", ""], "--workspace"),
        (["status", "--workspace="], "--workspace"),
        (["unlearncanvas", "-w", ""], "--workspace"),
        (["sae", "info", ""], "SAE"),
        (["hookpoints", ""], "MODEL"),
        (["evaluate", "neon", ""], "CONCEPTS"),
        (["removal", "export", "neon", "--out="], "--out"),
        (["run", "canvas", "--set", "train.k=8", "--set="], "--set"),
    ],
)
def test_an_empty_value_is_not_one_that_is_left_out(words: list[str], named: str) -> None:
    done = run_here(*words)
    assert done.code == 2 and done.complaint.startswith(f"saeuron: {named} is empty; expected: "), done.err
    needed = words[:2] in (["sae", "info"], ["removal", "export"], ["hookpoints", ""])
    assert done.complaint.endswith(f" Or leave {named} out.") != needed


def test_an_empty_prompt_may_be_drawn() -> None:
    """What a model draws without words is a question of its own."""
    assert "--out x.jpg: expected" in run_here("generate", "", "--out", "x.jpg").complaint


def test_a_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SAEURON_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "saeuron conc")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = CliRunner().invoke(cli.app, [], prog_name="saeuron")
    assert done.output.split() == ["concept"]


class TestHelp:
    def test_these_are_the_commands(self) -> None:
        assert set(COMMANDS) == {
            "run", "evaluate", "bench", "audit", "report", "remove", "runs", "removal list", "sae list",
            "sql", "generate", "status", "verify", "gc", "diff", "removal export", "latent show", "latent steer",
            "explore", "hookpoints", "locate", "inception", "blindspots", "doctor", "compare", "sequence",
            "removal bake",
            "concept list", "concept show", "concept add", "concept drop", "concept refresh", "concept new",
            "concept relatives",
            "unlearncanvas convert", "unlearncanvas export",
            "sae import", "sae export", "sae info", "sae report", "sae prove", "sae explain", "deploy",
        }  # fmt: skip

    @pytest.mark.parametrize("name", COMMANDS)
    def test_has_an_example_that_parses(self, name: str) -> None:
        done = run_here(*name.split(), "--help")
        assert done.code == 0 and not done.err
        example = " ".join(done.out.split()).partition("Example: ")[2]
        assert example.startswith(f"saeuron {name}")
        text = (COMMANDS[name].help or "").partition("Example: ")[2].splitlines()[0]
        words = shlex.split(text)[1 + len(name.split()) :]
        context = COMMANDS[name].make_context(name, words, resilient_parsing=False)
        assert not context.args

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_option_says_what_it_is(self, name: str) -> None:
        for parameter in COMMANDS[name].params:
            if isinstance(parameter, click.Option) or hasattr(parameter, "is_flag"):
                assert getattr(parameter, "help", None), parameter.name

    def test_feature_is_a_hidden_name_of_latent(self) -> None:
        commands = vars(typer.main.get_command(app))["commands"]
        former, latent = commands["feature"], commands["latent"]
        assert former.hidden and not latent.hidden
        assert former.commands["show"].callback.__wrapped__ is latent.commands["show"].callback.__wrapped__
        assert " feature " not in run_here("--help").out

    def test_without_a_command_it_shows_the_help(self) -> None:
        done = run_here()
        assert done.code == 2 and "Usage" in done.out + done.err


MODELS = {"torch", "diffusers", "transformers", "prefect", "matplotlib", "pyarrow.dataset"}
"""What takes seconds to import; no command that only looks may."""
TABLES = {"duckdb", "pyarrow", "numpy", "rich"}
"""What takes a tenth of a second together."""
IMPORTED = """
import sys
from flows.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("--help", MODELS | TABLES),
        ("concept list", MODELS),
        ("status", MODELS),
        ("sql 'select * from metrics'", MODELS | {"duckdb"}),
    ],
)
def test_a_quick_command_imports_nothing_heavy(words: str, heavy: set[str], tmp_path: Path) -> None:
    place = [] if words == "--help" else ["-w", str(tmp_path)]
    runs.remember(Workspace.open(tmp_path), load("canvas", []))
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *shlex.split(words), *place],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "flows.cli" in (imported := set(done.stderr.split()))
    assert not heavy & imported


class TestSqlOut:
    def test_the_name_says_the_format(self, tmp_path: Path) -> None:
        place = ("-w", Workspace.open(tmp_path / "w").root)
        beginnings = {"q.csv": b"a,b", "q.json": b"[", "q.parquet": b"PAR1", "q.txt": b"a  b"}
        for name, begins in beginnings.items():
            assert run_here("sql", "select 1 a, 2 b", "--out", tmp_path / name, *place).code == 0
            assert (tmp_path / name).read_bytes().strip().startswith(begins), name
        assert run_here("sql", "select 1 a, 2 b", "--out", tmp_path / "q.txt", "--format", "csv", *place).code == 0
        assert (tmp_path / "q.txt").read_bytes().startswith(b"a,b")

    @pytest.mark.parametrize(("name", "said"), [("q.xlsx", "ends in .csv, .json"), ("no/q.csv", "there is no folder")])
    def test_a_name_that_cannot_be_is_refused_and_nothing_is_made(self, tmp_path: Path, name: str, said: str) -> None:
        done = run_here("sql", "select 1 a", "--out", tmp_path / name, "-w", Workspace.open(tmp_path / "w").root)
        assert done.code == 2 and said in done.complaint
        assert sorted(p.name for p in tmp_path.iterdir()) == ["w"]


FILES = {
    "sql 'select 1 a'": "csv",
    "concept new zebra": "yaml",
    "report": "html",
    "generate x": "png",
    "compare": "png",
    "inception x.pth": "safetensors",
    "sae report x": "html",
    "latent show x 1": "png",
}
FOLDERS = (
    "removal export neon",
    "removal bake neon",
    "sae export x --format saelens",
    "unlearncanvas convert x.pth",
    "unlearncanvas export x",
)


class TestOut:
    """Where a command cannot write, it says so before it looks at anything else."""

    @pytest.fixture(autouse=True)
    def before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SAEURON_WORKSPACE", raising=False)
        monkeypatch.chdir(tmp_path)

    def refused(self, words: str, out: Path | str, option: str = "--out") -> str:
        there = sorted(Path.cwd().rglob("*"))
        done = run_here(*shlex.split(words), option, out)
        assert done.code == 2 and done.complaint.startswith(f"saeuron: {option} {out}: "), done.err
        assert sorted(Path.cwd().rglob("*")) == there
        return done.complaint

    @pytest.mark.parametrize("words", [*FILES, *FOLDERS])
    def test_no_folder_is_made_above_it(self, words: str) -> None:
        assert "there is no folder no; make it" in self.refused(words, f"no/out.{FILES.get(words, '')}".strip("."))

    @pytest.mark.parametrize("words", FILES)
    def test_a_folder_is_no_file(self, words: str) -> None:
        Path(f"out.{FILES[words]}").mkdir()
        assert "this is a folder" in self.refused(words, f"out.{FILES[words]}")

    @pytest.mark.parametrize("words", FOLDERS)
    def test_a_file_is_no_folder(self, words: str) -> None:
        Path("out").touch()
        assert "this is a file" in self.refused(words, "out")

    @pytest.mark.parametrize("words", [*FILES, *FOLDERS])
    def test_a_place_that_may_not_be_written_to(self, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        assert "no file can be made in . (permission denied)" in self.refused(words, f"out.{FILES.get(words, 'x')}")

    def test_the_other_option_that_names_a_file(self) -> None:
        assert "there is no folder no" in self.refused("sae explain x", "no/out.jsonl", "--export")


class TestTable:
    def test_aligns_numbers_right_and_text_left(self) -> None:
        rows = [
            {"name": "a", "n": 4, "share": 0.5, "made": True},
            {"name": "longer", "n": 1000, "share": None, "made": False},
        ]
        assert text_table(["name", "n", "share", "made"], rows).splitlines() == [
            "name       n  share  made",
            "------  ----  -----  ----",
            "a          4   50.0  yes",
            "longer  1000      -  no",
        ]

    def test_without_rows(self) -> None:
        assert text_table(["a", "bcd"], []).splitlines() == ["a  bcd", "-  ---"]

    def test_a_key_that_is_missing_is_a_dash(self) -> None:
        assert text_table(["a"], [{}]).splitlines()[-1] == "-"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No setting of Prefect's or of ours; what is set is taken back."""
    kept = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("PREFECT_") or name in environment.QUIET:
            del os.environ[name]
    yield monkeypatch
    os.environ.clear()
    os.environ.update(kept)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_is_one_line_and_its_own_exit_code(name: str, code: int) -> None:
    program = f"import os, signal, flows.cli as c; c.app = lambda **_: os.kill(os.getpid(), signal.{name}); c.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.strip() == (
        "saeuron: interrupted; what was finished is kept. Run the same command again to go on."
    )


@pytest.mark.usefixtures("bare")
class TestEnvironment:
    def test_no_telemetry_and_state_in_the_workspace(self, tmp_path: Path) -> None:
        environment.prepare(tmp_path, verbose=False)
        assert os.environ["DO_NOT_TRACK"] == "1"
        assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
        assert os.environ["PREFECT_LOGGING_LEVEL"] == "CRITICAL"

    def test_verbose_shows_the_log(self, tmp_path: Path) -> None:
        environment.prepare(tmp_path, verbose=True)
        assert os.environ["PREFECT_LOGGING_LEVEL"] == "INFO"

    def test_a_proxy_is_not_asked_for_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first use
        for name in {*environment.NO_PROXY, "ALL_PROXY", "all_proxy"} & os.environ.keys():
            del os.environ[name]
        os.environ |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "a.example"}
        environment.prepare(tmp_path, verbose=False)
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "a.example,127.0.0.1,localhost,::1"
        with Listener() as listener, urlopen(listener.url("/"), timeout=5):
            pass
        os.environ |= {"NO_PROXY": "*", "no_proxy": ""}
        environment.prepare(tmp_path, verbose=False)
        assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("*", "")

    def test_a_socks_proxy_is_refused_where_it_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        os.environ["ALL_PROXY"] = "socks5://127.0.0.1:9"
        monkeypatch.setitem(sys.modules, "socksio", None)
        with pytest.raises(ConfigError, match="ALL_PROXY is a SOCKS proxy"):
            environment.check_server()

    def test_what_the_user_has_set_wins(self, tmp_path: Path) -> None:
        os.environ |= {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_HOME": "/mine", "DO_NOT_TRACK": "0"}
        environment.prepare(tmp_path, verbose=False)
        assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
        assert os.environ["PREFECT_HOME"] == "/mine"
        assert os.environ["DO_NOT_TRACK"] == "0"

    def test_a_server_of_the_users_own_keeps_its_home(self, tmp_path: Path) -> None:
        os.environ["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"
        environment.prepare(tmp_path, verbose=False)
        assert "PREFECT_HOME" not in os.environ and "PREFECT_PROFILES_PATH" not in os.environ
        # It hears the library, and the terminal does so where it warns.
        assert os.environ["PREFECT_LOGGING_EXTRA_LOGGERS"].split(",") == ["flows", "tasks", "saeuron", "storage"]
        assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "WARNING"

    def test_an_empty_address_is_none(self, tmp_path: Path) -> None:
        os.environ["PREFECT_API_URL"] = ""
        environment.prepare(tmp_path, verbose=False)
        environment.check_server()
        assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
        assert "PREFECT_LOGGING_EXTRA_LOGGERS" not in os.environ

    @pytest.mark.parametrize("address", ["127.0.0.1:4200", "ftp://127.0.0.1/api"])
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        os.environ["PREFECT_API_URL"] = address
        with pytest.raises(ConfigError, match="expected an address such as http://127"):
            environment.check_server()

    def test_a_server_that_refuses_is_there(self) -> None:
        with Listener(status=403) as refusing:
            os.environ["PREFECT_API_URL"] = refusing.url("/api")
            environment.check_server()

    def test_a_relative_workspace_is_made_absolute(self, bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
        bare.chdir(tmp_path)
        environment.prepare(Path("w"), verbose=False)
        assert os.environ["PREFECT_HOME"] == str(tmp_path / "w" / ".prefect")
