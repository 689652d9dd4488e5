"""The bars of a run."""

import io
import sys

from rich.console import Console

from flows.display import Display, Left


def test_a_bar_says_what_is_left_until_it_is_done() -> None:
    # Rich takes the terminal's place while bars are shown, and gives it back.
    before = sys.stdout
    with Display(Console(file=io.StringIO(), force_terminal=True, width=80)) as shown:
        shown.stage("capture", 1, 3)
        shown.stage("capture", 2, 3)
        (task,) = shown.bars.tasks
        underway = Left(compact=True).render(task).plain
        shown.stage("capture", 3, 3)
        done = Left(compact=True).render(task).plain
    assert underway.endswith(" left") and done == "" and sys.stdout is before
