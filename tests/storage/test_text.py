"""Tables as text: exact lines at a given width."""

import os
import subprocess
import sys

from storage.text import few, table

HEAD = ["domain", "hookpoint", "n"]
ROWS = [["style", "unet.up_blocks.0.attentions.1.attn2", "4"], ["object", "unet.mid", "16"]]


def test_a_table_that_fits_is_aligned() -> None:
    assert table(HEAD, ROWS, right=[2], width=47).splitlines() == [
        "domain  hookpoint                             n",
        "------  -----------------------------------  --",
        "style   unet.up_blocks.0.attentions.1.attn2   4",
        "object  unet.mid                             16",
    ]


def test_one_letter_too_wide_becomes_a_block_a_row() -> None:
    assert table(HEAD, ROWS, right=[2], width=46).splitlines() == [
        "-[ 1 ]------",
        "domain    | style",
        "hookpoint | unet.up_blocks.0.attentions.1.",
        "          | attn2",
        "n         | 4",
        "-[ 2 ]------",
        "domain    | object",
        "hookpoint | unet.mid",
        "n         | 16",
    ]


def test_a_path_goes_on_in_the_next_line_where_a_name_begins() -> None:
    assert table(HEAD, ROWS, right=[2], wrapped=["hookpoint"], width=33).splitlines() == [
        "domain  hookpoint               n",
        "------  ---------------------  --",
        "style   unet.up_blocks.0.       4",
        "        attentions.1.attn2",
        "object  unet.mid               16",
    ]
    # Columns keep 20 letters; below that, blocks are easier to read.
    assert table(HEAD, ROWS, wrapped=["hookpoint"], width=31).startswith("-[ 1 ]-")


def test_a_sentence_goes_on_in_the_next_line() -> None:
    rows = [["ink", "steps: 12 -> 24, seed: 0 -> 1"], ["oil", ""]]
    assert table(["what", "because"], rows, wrapped=["because"], width=27).splitlines() == [
        "what  because",
        "----  ---------------------",
        "ink   steps: 12 -> 24,",
        "      seed: 0 -> 1",
        "oil",
    ]


def test_an_optional_column_that_fits_without_a_wider_one_stays() -> None:
    names, rows = ["concept", "domain", "id"], [["neon", "style", 30 * "a"]]
    assert table(names, rows, optional=["domain", "id"], width=24).splitlines() == [
        "concept  domain",
        "-------  ------",
        "neon     style",
        "(left out to fit 24 letters: id)",
    ]


def test_optional_columns_go_first_to_last_and_are_named() -> None:
    rows = [["neon", "91.0", "4", "2.0"]]
    names = ["removed", "UA", "settings", "gamma"]
    assert table(names, rows, optional=["gamma", "settings"], width=24).splitlines() == [
        "removed  UA    settings",
        "-------  ----  --------",
        "neon     91.0  4",
        "(left out to fit 24 letters: gamma)",
    ]
    assert table(names, rows, optional=["gamma", "settings"], width=19).splitlines()[-1] == (
        "(left out to fit 19 letters: gamma, settings)"
    )
    # Blocks have room for every column.
    assert table(names, rows, optional=["gamma", "settings"], width=10).splitlines()[1:] == [
        "removed  | neon",
        "UA       | 91.0",
        "settings | 4",
        "gamma    | 2.0",
    ]


def test_a_long_value_of_a_block_is_wrapped_and_names_are_whole() -> None:
    rows = [["A cat in the style of neon, beside a red umbrella.", "x" * 45]]
    assert table(["prompt", "evaluation_id"], rows, width=40).splitlines() == [
        "-[ 1 ]----------",
        "prompt        | A cat in the style of",
        "              | neon, beside a red",
        "              | umbrella.",
        "evaluation_id | xxxxxxxxxxxxxxxxxxxxxxxx",
        "              | xxxxxxxxxxxxxxxxxxxxx",
    ]


def test_the_name_of_a_file_stays_whole() -> None:
    assert table(["path"], [["artifacts/sae/sae_v2_0123/sae.safetensors"]], width=40).splitlines() == [
        "-[ 1 ]-",
        "path | artifacts/sae/sae_v2_0123/",
        "     | sae.safetensors",
    ]


def test_without_rows_the_names_are_told() -> None:
    assert table(["a", "bcd"], [], width=80).splitlines() == ["a  bcd", "-  ---"]
    assert table(["alpha", "beta", "gamma"], [], width=16).splitlines() == ["columns: alpha,", "beta, gamma"]


def test_a_terminal_obeys_no_cell() -> None:
    assert table(["a\x1b[2J"], [["b\r\nc"]], width=80).splitlines() == ["a [2J", "-----", "b  c"]


def test_eighty_columns_where_there_is_no_terminal() -> None:
    code = "from storage.text import few, table\nfor n in (39, 40): print(table(['a', 'b'], [['x' * 39, 'y' * n]])[:3])"
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a  ", "-[ "]


def test_a_few_names_are_listed_and_the_others_counted() -> None:
    assert few(["a", "b"]) == "a, b" and few([]) == ""
    assert few(list("abcdef")) == "a, b, c, d and 2 more"
    assert few(list("abcd"), 3, "; ") == "a; b; c and 1 more"
