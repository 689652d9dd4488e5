"""Which results are drawn, and how cells are shown."""

import pyarrow as pa
import pytest

from flows.explore.queries import cells, plot_of


def test_a_name_and_a_number_are_bars() -> None:
    text = plot_of(pa.table({"concept": ["cat", "<b>"], "method": ["a", "b"], "value": [0.5, None]}))
    assert "cat a: 0.5000" in text and "<b>" not in text
    assert plot_of(pa.table({"concept": ["cat", "moon"], "n": [3, 4]})).count("<rect") == 2


def test_two_numbers_are_a_curve_and_timesteps_go_from_noise_to_image() -> None:
    text = plot_of(pa.table({"timestep": [0, 999, 500], "score": [0.1, 0.3, 0.2]}))
    assert text.index("t 999") < text.index("t 500") < text.index("t 0:")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"n": [1, 2]}),
        pa.table({"a": ["x"], "n": [1]}),
        pa.table({"a": ["x", "y"], "b": ["x", "y"]}),
        pa.table([pa.array(["x", "y"]), pa.array([1, 2])], names=["a", "a"]),
        pa.table({"a": [str(i) for i in range(500)], "n": list(range(500))}),
    ],
)
def test_what_does_not_fit_is_not_drawn(table: pa.Table) -> None:
    assert plot_of(table) == ""


def test_cells_are_text_and_numbers_have_six_digits() -> None:
    names, rows = cells(pa.table({"a": [None, "x"], "b": [0.123456789, 2.0], "c": [[1], None]}))
    assert names == [("a", False), ("b", True), ("c", False)]
    assert rows[0] == [("", False), ("0.123457", True), ("[1]", False)]
