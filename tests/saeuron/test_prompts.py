import hashlib
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from saeuron.canvas import vocabulary
from saeuron.config import DomainConfig, PromptsConfig
from saeuron.errors import BadPrompts, UnknownName, UserError
from saeuron.prompts import Prompt, build, cells, choose, fill, from_file, from_templates, placeholders

DOMAINS = {
    "object": DomainConfig(concepts=("cat", "dog"), hookpoints=("unet.a",)),
    "style": DomainConfig(concepts=("neon", "sepia"), hookpoints=("unet.b",)),
}
NAMES = {name: d.concepts for name, d in DOMAINS.items()}


def test_an_id_is_a_hash_of_the_text_alone():
    prompt = Prompt("A cat.", "train", {"object": "cat"})
    assert prompt.id == hashlib.sha256(b"A cat.").hexdigest()[:16]
    assert prompt.id == Prompt("A cat.", "test").id
    assert prompt.id != Prompt("A cat", "train", {"object": "cat"}).id


def test_templates_are_filled_with_every_combination():
    prompts = from_templates(PromptsConfig(templates={"train": ("{style} {object}.", "a {object}.")}), NAMES)
    assert [p.text for p in prompts] == [
        "Neon cat.", "Neon dog.", "Sepia cat.", "Sepia dog.", "A cat.", "A dog.",
    ]  # fmt: skip
    assert prompts[1].concepts == {"style": "neon", "object": "dog"}
    assert prompts[5].concepts == {"object": "dog"}


def test_a_sentence_starts_with_a_capital_and_keeps_the_rest():
    assert fill("{object} of NASA", {"object": "cat"}) == "Cat of NASA"


@pytest.mark.parametrize("typo", ["{stlye} {object}", "{Style}", "{styles}"])
def test_a_misspelt_placeholder_names_the_nearest(typo):
    with pytest.raises(UnknownName, match=r"unknown placeholder .*did you mean .*'style'.*template") as caught:
        placeholders(typo, NAMES)
    assert repr(typo) in str(caught.value)


@pytest.mark.parametrize("template", ["{object", "object}", "{object!}"])
def test_a_malformed_template_is_a_user_error(template):
    with pytest.raises(BadPrompts, match="template") as caught:
        placeholders(template, NAMES)
    assert template in str(caught.value)


def test_escaped_braces_are_no_placeholders():
    assert placeholders("{{x}} {object}", NAMES) == ("object",)


ROWS = [
    {"text": "A cat, drawn.", "split": "train", "object": "cat", "style": None},
    {"text": "A neon dog.", "split": "test", "object": "dog", "style": "neon"},
]


def _write(path, rows):
    match path.suffix:
        case ".csv":
            lines = ["text,split,object,style"]
            lines += [",".join(json.dumps(r[k]) if k == "text" else r[k] or "" for k in r) for r in rows]
            path.write_text("\n".join(lines) + "\n")
        case ".jsonl":
            path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_of_each_kind_say_the_same(tmp_path, kind):
    assert from_file(_write(tmp_path / f"p.{kind}", ROWS), NAMES) == [
        Prompt("A cat, drawn.", "train", {"object": "cat"}),
        Prompt("A neon dog.", "test", {"object": "dog", "style": "neon"}),
    ]


def test_a_text_file_is_one_training_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("A cat.\n\n  A dog.  \n")
    assert from_file(path, NAMES) == [Prompt("A cat.", "train"), Prompt("A dog.", "train")]


def test_a_csv_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("text,split\r\nA cat.,test\r\n".encode("utf-8-sig"))
    assert from_file(path, NAMES) == [Prompt("A cat.", "test")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"", "holds no prompts"),
        ("p.csv", b"text,split\n", "holds no prompts"),
        ("p.txt", b"\n\n", "holds no prompts"),
        ("p.csv", b"text,split\nA cat.,train\n  ,train\n", "row 2: no text"),
        ("p.csv", b"text,split\nA cat.,dev\n", "row 1: split 'dev'; expected one of train, validation, test"),
        ("p.jsonl", b'{"text": "A cat."}\n{"text": \n', "line 2: not JSON"),
        ("p.jsonl", b'{"text": "A cat."}\n["A dog."]\n', "line 2: .*expected an object"),
        ("p.md", b"A cat.", r"unknown kind of prompt file '\.md'; expected \.csv"),
        ("p.parquet", b"not parquet", "cannot be read"),
        ("p.txt", b"\xff\xfe\x00 cat", "cannot be read"),
    ],
)
def test_each_bad_file_is_named_with_its_fault_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadPrompts, match=message) as caught:
        from_file(path, NAMES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(BadPrompts, match="no such prompt file"):
        from_file(tmp_path / "p.csv", NAMES)


@pytest.mark.parametrize("concept", ["dgo", 3])
def test_a_concept_the_domain_does_not_have(tmp_path, concept):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"text": "A dog.", "object": concept}) + "\n")
    with pytest.raises(UnknownName, match=f"unknown object '{concept}'.*'?dog'?.*row 1"):
        from_file(path, NAMES)


def test_build_sorts_and_merges_equal_prompts(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text,split,object\nA cat.,test,cat\nAa dog.,train,dog\n")
    config = PromptsConfig(templates={"test": ("a {object}.",)}, files=(str(path),))
    prompts = build(config, DOMAINS)
    assert [(p.split, p.text) for p in prompts] == [("train", "Aa dog."), ("test", "A cat."), ("test", "A dog.")]


def test_splits_must_not_share_sentences():
    config = PromptsConfig(templates={"train": ("a {object}.",), "test": ("A {object}.",)})
    with pytest.raises(BadPrompts, match=r"'A cat\.' occurs twice, as train .* and as test .*splits"):
        build(config, DOMAINS)


def test_one_sentence_cannot_ask_for_two_things(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text,split,object\nA cat.,train,dog\n")
    config = PromptsConfig(templates={"train": ("a {object}.",)}, files=(str(path),))
    with pytest.raises(BadPrompts, match=r"\{'object': 'cat'\}.*\{'object': 'dog'\}"):
        build(config, DOMAINS)


def test_an_empty_prompt_set_is_refused():
    with pytest.raises(BadPrompts, match="empty"):
        build(PromptsConfig(), DOMAINS)


def _pool(texts):
    return [Prompt(t, "train") for t in texts]


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True),
    st.lists(st.text(min_size=1), max_size=10, unique=True),
    st.integers(0, 3),
    st.randoms(),
)
def test_choose_keeps_its_order_when_the_pool_grows(old, more, seed, random):
    grown = [*old, *(t for t in more if t not in old)]
    random.shuffle(grown)
    before = [p.text for p in choose(_pool(old), len(old), seed)]
    after = [p.text for p in choose(_pool(grown), len(grown), seed)]
    assert [t for t in after if t in old] == before
    count = min(5, len(old))
    assert [t for t in (p.text for p in choose(_pool(grown), count, seed)) if t in old] == before[:count][
        : sum(t in old for t in after[:count])
    ]


def test_choose_depends_on_the_seed_and_gives_all_if_asked_for_more():
    pool = _pool([f"Prompt {i}." for i in range(30)])
    assert choose(pool, 10, 0) != choose(pool, 10, 1)
    assert {p.text for p in choose(pool, 99, 0)} == {p.text for p in pool}


def test_cells_group_by_all_that_is_asked_for():
    prompts = build(PromptsConfig(templates={"train": ("{style} {object}.", "A {object}.", "The {object}.")}), DOMAINS)
    groups = cells(prompts)
    assert len(groups) == 4 + 2
    assert [p.text for p in groups[("object", "dog"),]] == ["A dog.", "The dog."]
    assert [p.text for p in groups[("object", "dog"), ("style", "neon")]] == ["Neon dog."]


def test_unknown_names_without_a_near_one_list_what_is_known():
    assert str(UnknownName("judge", "zzz", ["b", "a"])) == "unknown judge 'zzz': known: a, b."
    assert str(UnknownName("judge", "x", [])) == "unknown judge 'x': there are none yet."
    assert "(20 in all)" in str(UnknownName("n", "zzz", [f"{i:02}" for i in range(20)]))
    assert issubclass(UnknownName, UserError)


def test_canvas_sentences_of_the_three_splits_are_disjoint():
    def of(split):
        styles = (None, *vocabulary.STYLES)
        return {s for o in vocabulary.OBJECTS for st in styles for s in vocabulary.sentences(split, o, st)}

    train, validation, test = of("train"), of("validation"), of("test")
    assert len(train) == 20 * (7 + 12 * 12)
    assert len(validation) == len(test) == 20 * (2 + 12 * 4)
    # A train template that equals a validation or test one would be caught here.
    shared = (train & validation) | (train & test) | (validation & test)
    assert shared == set()
    assert not set(vocabulary.OBJECTS) & set(vocabulary.STYLE_CLASSES)


NEON = [Prompt("A neon cat.", "test", {"style": "neon", "object": "cat"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "text, split, style, object\nA neon cat., test, neon, cat\n"),
        ("p.csv", "Text,SPLIT,Style , object\nA neon cat.,test,neon,cat\n"),
        ("p.csv", "text,split,style,object,,\nA neon cat.,test,neon,cat,,\n"),
        ("p.jsonl", '\ufeff{" Text": "A neon cat.", "split": "test", "STYLE": "neon", "object": "cat"}\n'),
        ("p.jsonl", '{"text": "A neon cat.", "split": "test", "concepts": {"style": "neon", "object": "cat"}}'),
        ("p.csv", 'text,split,concepts\nA neon cat.,test,"{""style"": ""neon"", ""object"": ""cat""}"\n'),
        ("p.csv", 'prompt_id,text,split,object,concepts\n0,A neon cat.,test,cat,"{""style"": ""neon""}"\n'),
    ],
)
def test_columns_as_people_write_them(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert from_file(path, NAMES) == NEON


def test_the_products_own_table_keeps_its_concepts(tmp_path):
    kind = pa.map_(pa.string(), pa.string())
    pairs = pa.array([[("style", "neon"), ("object", "cat")]], kind)
    table = pa.table({"prompt_id": ["0"], "text": ["A neon cat."], "split": ["test"], "concepts": pairs})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert from_file(tmp_path / "p.parquet", NAMES) == NEON


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "text,styel\nA neon cat.,neon\n", "unknown column 'styel': did you mean 'style'"),
        ("p.csv", "sentence\nA cat.\n", "unknown column 'sentence': known: concepts, guidance, object, seed, split"),
        ("p.csv", "text,artist\nA cat.,Dali\n", "unknown column 'artist'.*row 1"),
        ("p.csv", "text,style\nA cat, drawn,neon\n", r"row 1: more cells than columns \(\['neon'\]\)"),
        ("p.csv", "text,style,Style\nA cat.,neon,sepia\n", "the column 'style' stands twice"),
        ("p.jsonl", '{"text": "A cat.", "style": "neon", "style": "sepia"}', "line 1.*the key 'style' stands twice"),
        ("p.csv", 'text,style\n"A cat,neon\nA dog,sepia\n', "cannot be read as .csv: unexpected end of data"),
        ("p.csv", 'text,style\n"A cat,neon\n"A dog",sepia\n', "cannot be read as .csv"),
        ("p.csv", 'text,style\n"A cat,neon\n",sepia\n', "row 1: the text .* has several lines"),
        ("p.jsonl", '{"text": "A cat.", "concepts": {"genre": "neon"}}', "unknown domain 'genre'"),
        ("p.jsonl", '{"text": "A cat.", "concepts": {"style": "noen"}}', "unknown style 'noen'"),
        ("p.jsonl", '{"text": "A cat.", "concepts": "neon"}', "concepts 'neon'; expected a mapping"),
        ("p.jsonl", '{"text": "A cat.", "style": "neon", "concepts": {"style": "sepia"}}', "two concepts of style"),
    ],
)
def test_nothing_in_a_file_is_left_out_in_silence(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        from_file(path, NAMES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.b", "{x}", "it's", "a/b", "{0!r}"])
def test_names_are_plain_text_in_templates(name):
    prompts = from_templates(PromptsConfig(templates={"train": ("a {a.b}, {{x}}.",)}), {"a.b": (name,)})
    assert [p.text for p in prompts] == [f"A {name}, {{x}}."]


@pytest.mark.parametrize("template", ["{object:>9}", "{object!r}"])
def test_a_placeholder_is_a_name_alone(template):
    with pytest.raises(BadPrompts, match="write the name alone"):
        placeholders(template, NAMES)
