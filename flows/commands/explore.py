"""`saeuron explore`: the workspace in a browser."""

from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Threads, WorkspaceOption, console_for, say


def explore(
    workspace: WorkspaceOption = WORKSPACE,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback requires a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8130,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Look at a workspace in a browser.

    It shows concepts, latents, SAEs, runs and SQL, and draws images with latents or removals turned on and off. Nothing
    in the workspace is changed. Ctrl-C ends it.

    Example: saeuron explore --port 8130
    """
    from flows.check import check_device
    from flows.environment import prepare
    from storage import Workspace

    check_device(device)
    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose=False)
    console_for().print(f"reading {opened.address}", style="dim")
    from flows.explore.serving import bound, serve

    with bound(host, port) as listening:
        address = serve(opened, listening, host, device, threads, announce=say)
    say(f"closed {address}")
