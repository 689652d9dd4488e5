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


def test_a_step_between_two_stages_has_a_row_of_its_own_and_a_late_one_has_none() -> None:
    with Display(Console(file=io.StringIO(), force_terminal=True, width=80)) as shown:
        shown.stage("score", 0, 1)
        shown.within("score cat", 1, 4, "images")
        shown.stage("score", 1, 1)
        shown.within("score dog", 3, 4, "images")
        shown.within("images unedited", 2, 4, "images")
        score, images = shown.bars.tasks
        assert (score.percentage, score.fields["note"], images.percentage) == (100, "", 50)
        shown.within("images unedited", 4, 4, "images")
        assert images.finished and len(shown.bars.tasks) == 2
