"""The file that `saeuron concept new` writes: sentences with right articles, and a judge that knows the word."""

from pathlib import Path

import pytest

from flows.check import check_added
from flows.commands.concept_new import suggested
from flows.config import load, load_concept
from saeuron.config import PromptsConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.figures.words import a
from saeuron.judges.clip import MODEL
from saeuron.prompts import Prompt, from_templates, placeholders

CLIP = f"clip:{MODEL}"


def written(tmp_path: Path, *args: object, source: str = "canvas20", settings: tuple[str, ...] = ()):
    text = suggested(load(source, settings), *args)  # type: ignore[arg-type]
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return load_concept(path)


def sentences(concept) -> list[Prompt]:
    domains = {"object": (concept.name,), "style": ("neon",)}
    also = {concept.name: concept.also} if concept.also else {}
    return from_templates(PromptsConfig(templates=concept.templates, also=also), domains)


def test_articles_are_right_for_the_concept_and_for_its_synonyms(tmp_path):
    concept = written(tmp_path, "owl", "object", ["night bird", "unicorn"], "")
    texts = [p.text for p in sentences(concept)]
    assert "A photo of an owl." in texts and "A photo of a night bird." in texts and "A photo of a unicorn." in texts
    # The run's own sentences, which say "a {object}", as well.
    assert "An image of an owl in neon style." in texts and "An image of a night bird in neon style." in texts
    assert not [t for t in texts if " a owl" in t.lower() or t.startswith("A owl")]
    assert {p.concepts["object"] for p in sentences(concept)} == {"owl"}


def test_sounds_not_letters_choose_the_article():
    words = ("hour", "honest man", "unicorn", "umbrella", "one-eyed cat", "European oak", "egg", "UFO", "zebra")
    assert [a(word).split()[0] for word in words] == ["an", "an", "a", "an", "a", "a", "an", "a", "a"]


def test_a_name_of_several_words_is_one_concept(tmp_path):
    concept = written(tmp_path, "hot air balloon", "object", [], "")
    assert concept.name == "hot air balloon" and concept.judge == CLIP
    assert "A picture that shows a hot air balloon." in [p.text for p in sentences(concept)]
    splits = {p.split for p in sentences(concept)}
    assert splits == {"train", "validation", "test"}
    texts = [p.text for p in sentences(concept)]
    assert len(texts) == len({*texts})


def test_the_domains_judge_stays_where_it_knows_the_word(tmp_path):
    assert written(tmp_path, "bolt", "object", [], "").judge == ""
    assert written(tmp_path, "zebra", "object", [], "").judge == CLIP
    assert written(tmp_path, "grain", "style", [], "", source="canvas").judge == ""
    assert written(tmp_path, "zebra", "object", [], "clip:./mine").judge == "clip:./mine"
    settings = ("domains.object.judge=none",)
    assert written(tmp_path, "zebra", "object", [], "", settings=settings).judge == CLIP


def test_a_run_of_one_domain_needs_no_domain_and_one_without_templates_gets_paraphrases(tmp_path):
    config = load("canvas20")
    alone = config.model_copy(
        update={"domains": {"object": config.domains["object"]}, "prompts": PromptsConfig(files=("x.csv",))}
    )
    path = tmp_path / "z.yaml"
    path.write_text(suggested(alone, "zebra", "", [], ""))
    concept = load_concept(path)
    assert concept.domain == "object" and concept.templates["test"] == ("There is {object:a} in this picture.",)
    both = config.model_copy(update={"prompts": PromptsConfig(files=("x.csv",))})
    path.write_text(suggested(both, "zebra", "style", [], ""))
    crossed = [t for t in load_concept(path).templates["train"] if len(placeholders(t, both.domains)) == 2]
    assert crossed == ["A photo in {style} style with {object:a}."]


def test_what_cannot_join_is_refused_in_a_line():
    with pytest.raises(ConfigError, match=r"say which family 'zebra' joins: --domain with one of style, object"):
        suggested(load("canvas20"), "zebra", "", [], "")
    with pytest.raises(UnknownName, match="unknown domain 'objects': did you mean 'object'"):
        suggested(load("canvas20"), "zebra", "objects", [], "")
    with pytest.raises(ConfigError, match="concept 'cat' is part of the configuration already"):
        suggested(load("canvas20"), "cat", "object", [], "")
    with pytest.raises(UnknownName, match="unknown judge 'nope'"):
        suggested(load("canvas20"), "zebra", "object", [], "nope")
    for name in ("", " zebra"):
        with pytest.raises(ConfigError, match=r"^concept new: name: expected a name without blanks around it"):
            suggested(load("canvas20"), name, "object", [], "")


def test_a_judge_of_its_own_is_checked_before_anything_runs(tmp_path):
    concept = written(tmp_path, "zebra", "object", [], "clip:./nowhere")
    with pytest.raises(Exception, match=r"no such folder: './nowhere'; expected clip:FOLDER"):
        check_added(concept, load("canvas20"))
    with pytest.raises(UnknownName, match="label of the judge 'canvas20' 'zebra'"):
        check_added(concept.model_copy(update={"judge": ""}), load("canvas20"))
