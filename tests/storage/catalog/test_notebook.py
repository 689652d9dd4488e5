"""What a notebook gets of SQL."""

import pytest

from storage import Workspace, connect


def test_an_answer_is_a_data_frame(workspace: Workspace) -> None:
    # An extra that the tests do not install: Arrow would import it in every process that makes a table.
    pytest.importorskip("pandas")
    with connect(workspace) as connection:
        found = connection.sql("select view_name, count(*) as n from columns group by all order by all").df()
    assert list(found.columns) == ["view_name", "n"] and found["n"].min() > 0
