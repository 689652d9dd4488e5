"""What a notebook gets of SQL."""

from storage import Workspace, connect


def test_an_answer_is_a_data_frame(workspace: Workspace) -> None:
    with connect(workspace) as connection:
        found = connection.sql("select view_name, count(*) as n from columns group by all order by all").df()
    assert list(found.columns) == ["view_name", "n"] and found["n"].min() > 0
