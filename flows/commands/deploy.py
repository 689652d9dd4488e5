"""`saeuron deploy`: put the deployments on a Prefect server."""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import say


def deploy(
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the commands; deployments that are on the server are kept.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="How many runs may work on GPUs at once.")] = 1,
) -> None:
    """Put the deployments on a Prefect server.

    Prints the commands for the server at PREFECT_API_URL; with --apply, runs them.

    Example: saeuron deploy --apply
    """
    from flows.deploy import deployments as flow

    home = flow.home()
    if not apply:
        say(f"cd {shlex.quote(str(home))}")
        say(f"export {flow.HOME}=$PWD")
        for command in flow.commands(gpus).values():
            say(shlex.join(command))
        return
    from flows.environment import check_server, prepare, server_address
    from saeuron.errors import ConfigError

    if not server_address():
        raise ConfigError("PREFECT_API_URL is not set; expected the address of a server, http://127.0.0.1:4200/api.")
    with tempfile.TemporaryDirectory() as elsewhere:
        prepare(Path(elsewhere), verbose=False)
        check_server()
        todo = flow.pending(gpus)
        for what in flow.commands(gpus):
            if what in todo:
                say(shlex.join(todo[what]))
                flow.execute(todo[what])
            elif what == "automations":
                flow.refresh_automations()
                say(f"{what}: up to date")
            else:
                say(f"{what}: there already")
    say("next: prefect worker start --pool saeuron")
