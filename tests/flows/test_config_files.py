"""Reading a run's configuration: files, bases, --set, and one clear line for each mistake."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows.check import check, check_added
from flows.config import EMBEDDED, load, load_concept, names
from saeuron.canvas import FOLDERS
from saeuron.canvas.vocabularies import vocabulary_named
from saeuron.canvas.vocabulary import STYLED_TEMPLATES, STYLES, UNSTYLED_TEMPLATES
from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName, UserError
from saeuron.sae.config import LABELLED

LONE = {"style": {"concepts": ["neon"], "hookpoints": ["unet.up_blocks.0.attentions.1"]}}
CROSSED = ["A {object} in {style} style.", "A {object}."]
OTHERS = {"validation": ["The {object} in {style} style."], "test": ["One {object} in {style} style."]}
TINY = Path(__file__).parents[1] / "end_to_end" / "tiny.yaml"


@pytest.fixture
def write(tmp_path: Path):
    def file(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return file


class TestEmbedded:
    @pytest.mark.parametrize("name", names())
    def test_is_valid(self, name: str) -> None:
        config = load(name)
        for stage in ("train", "validation", "test"):
            assert config.prompts.templates.get(stage) or config.prompts.files
        for concept in config.tune.concepts or ():
            assert config.domain_of(concept)

    @pytest.mark.parametrize("name", [n for n in names() if load(n).model.spec in FOLDERS])
    def test_passes_the_check(self, name: str) -> None:
        check(load(name))

    def test_canvas_is_the_default(self) -> None:
        assert load(None) == load("canvas") == load("canvas.yaml") == load(str(EMBEDDED / "canvas.yaml"))

    @pytest.mark.parametrize("name", ["canvas", "canvas20"])
    def test_has_the_sentences_of_its_model(self, name: str) -> None:
        templates = load(name).prompts.templates
        assert set(templates) == set(STYLED_TEMPLATES)
        for split, found in templates.items():
            assert found == (*STYLED_TEMPLATES[split], *UNSTYLED_TEMPLATES[split])

    @pytest.mark.parametrize(("name", "objects"), [("canvas", 20), ("canvas20", 18), ("canvas_full", 100)])
    def test_asks_for_what_its_model_draws_and_leaves_some_out(self, name: str, objects: int) -> None:
        config = load(name)
        vocabulary = vocabulary_named(config.model.spec)
        assert set(config.domains) == {"style", "object"}
        styles, found = set(config.domains["style"].concepts), set(config.domains["object"].concepts)
        assert styles <= set(STYLES) and found <= set(vocabulary.objects) and len(found) == objects
        if name == "canvas_full":
            assert len(styles) == 12
        else:
            # What examples/ and README add is left out.
            assert set(STYLES) - styles == {"grain"} and not found & {"bolt", "boat"}

    @pytest.mark.parametrize("name", ["canvas", "canvas20"])
    def test_what_it_leaves_out_can_be_added(self, name: str) -> None:
        config = load(name)
        known = {"style": STYLES, "object": vocabulary_named(config.model.spec).objects}
        left = {d: set(v) - set(config.domains[d].concepts) for d, v in known.items()}
        for domain, concepts in left.items():
            for concept in concepts:
                check_added(ConceptConfig(name=concept, domain=domain), config)


class TestFile:
    def test_its_base_is_taken_where_it_says_nothing(self, write) -> None:
        base = load("canvas")
        mine = load(write("base: canvas\ntrain: {k: 5}\ndomains: {style: {concepts: [neon, dots]}}\n"))
        assert mine.train == base.train.model_copy(update={"k": 5})
        assert mine.domains["style"].concepts == ("neon", "dots")
        assert mine.domains["style"].hookpoints == base.domains["style"].hookpoints
        assert mine.domains["object"] == base.domains["object"]
        assert mine.prompts == base.prompts

    def test_its_base_may_have_one_too(self, write) -> None:
        assert load(write("base: canvas_full\ntrain: {k: 5}\n")) == load("canvas_full", ["train.k=5"])

    def test_the_tiny_one_passes_the_check(self) -> None:
        config = load(str(TINY))
        check(config)
        assert config.model.steps == 3 and config.tune.concepts == ("stripes", "cat")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("base: canvass\n", "unknown base 'canvass': did you mean 'canvas'"),
            ("base: [canvas]\n", "unknown base"),
            ("base: ../configs/canvas\n", "unknown base"),
            ("- a\n", "holds list; expected a mapping"),
            ("", "holds NoneType; expected a mapping"),
            ("a: [\n", "is not YAML"),
            ("base: canvas\ntrain: {k: 5}\ntune: {seed: 1}\ntrain: {lr: 0.1}\n", "the key 'train' stands twice"),
            ("base: canvas\ntrain: {k: 5, k: 6}\n", "the key 'k' stands twice in one section (line 2)"),
            ("base: canvas\na: 2020-13-45\n", "is not YAML: month must be in 1..12"),
            ("a: " + "[" * 9999, "is not YAML"),
            ("base: canvas\ndomains: {style: {concepts: [neon, ' ']}}\n", "a name without blanks around it"),
            ("base: canvas\ntran: {k: 5}\n", "unknown key 'tran'; did you mean 'train'"),
            ("base: canvas\ntrain: {exspansion: 5}\n", "unknown key 'train.exspansion'; did you mean 'expansion'"),
            ("base: canvas\ndomains: {style: {jugde: none}}\n", "'domains.style.jugde'; did you mean 'judge'"),
            ("base: canvas\ntrain: {k: many}\n", "train.k: Input should be a valid integer"),
            ("base: canvas\ntrain: {k: 0}\n", "train.k: Input should be greater than or equal to 1 (found 0)"),
            ("base: canvas\ntrain: {variant: relu}\n", "train.variant: Input should be 'topk', 'batch_topk', "),
            ("base: canvas\ntrain: {k: 0, lr: -1}\n", "(and 1 more)"),
            ("base: canvas\ntrain:\n", "train: Input should be a valid dictionary"),
            ("base: canvas\ntune: {n: [0]}\n", "unknown key 'tune.n'"),
            ("base: canvas\ndomains: {style: {concepts: [cat, neon]}}\n", "is in two domains"),
            ("base: canvas\ndomains: {style: {concepts: [neon, neon]}}\n", "named twice: neon"),
            ("model: {steps: 3}\n", "domains: Field required"),
            ("base: canvas\n1: 2\n", "1"),
            ("saes: hub:owner/name\ndomains: {style: {concepts: [a, b]}}\n", "domains.style.hookpoints"),
            ("saes: hub:owner/name\ndomains: [style]\n", "domains"),
            ("saes: hub:owner/name\ndomains: {style: 3}\n", "domains.style"),
        ],
    )
    def test_mistakes_are_one_line(self, write, text: str, said: str) -> None:
        with pytest.raises(UserError) as error:
            load(write(text))
        message = str(error.value)
        assert said in message and len(message.splitlines()) == 1

    @pytest.mark.parametrize("data", [b"base: canvas\n# caf\xe9\n", b"a: \x00"])
    def test_a_file_that_is_no_text_is_a_mistake(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.yaml").write_bytes(data)
        for read in (lambda: load(str(tmp_path / "x.yaml")), lambda: load_concept(tmp_path / "x.yaml")):
            with pytest.raises(ConfigError, match=r"x\.yaml is not YAML") as caught:
                read()
            assert "\n" not in str(caught.value)

    def test_a_file_may_begin_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        for encoding in ("utf-8-sig", "utf-16"):
            (tmp_path / "x.yaml").write_text("base: canvas\ntrain: {k: 5}\n", encoding=encoding)
            assert load(str(tmp_path / "x.yaml")).train.k == 5

    def test_a_file_that_is_not_there_names_the_embedded_ones(self) -> None:
        with pytest.raises(UnknownName, match="did you mean 'canvas'"):
            load("canvsa")
        with pytest.raises(UnknownName, match="Or give the path of a YAML file"):
            load("nowhere/mine.yaml")

    def test_relative_paths_are_kept_as_they_are_seen_now(self, tmp_path: Path, monkeypatch) -> None:
        for name in ("canvas20", "mine", "clip"):
            (tmp_path / name).mkdir()
        (tmp_path / "p.csv").touch()
        monkeypatch.chdir(tmp_path)
        settings = ["prompts.files=[p.csv, no.csv]", "domains.style.judge=clip:clip", "domains.object.judge=clip:a/b"]
        config = load(None, [*settings, "model.spec=mine"])
        assert config.prompts.files == (str(tmp_path / "p.csv"), "no.csv")
        assert config.model.spec == str(tmp_path / "mine")
        assert [d.judge for d in config.domains.values()] == [f"clip:{tmp_path / 'clip'}", "clip:a/b"]
        assert load(None, ["model.spec=canvas20"]).model.spec == "canvas20"  # not the folder of that name


class TestSet:
    def test_wins_over_the_file_and_reads_yaml(self, write) -> None:
        file = write("base: canvas\ntrain: {k: 5, batch: 7}\n")
        config = load(
            file, ["train.k=6", "tune.settings.saeuron.gamma=[-1.5]", "tune.concepts=null", "domains.style.judge=none"]
        )
        assert (config.train.k, config.train.batch) == (6, 7)
        assert config.tune.settings["saeuron"]["gamma"] == (-1.5,) and config.tune.concepts is None
        assert config.domains["style"].judge == "none"

    def test_the_last_of_two_wins(self) -> None:
        assert load(None, ["train.k=6", "train.k=7"]).train.k == 7

    def test_a_value_may_hold_an_equals_sign(self) -> None:
        assert load(None, ["model.spec=/a=b"]).model.spec == "/a=b"

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ("train.k", "expected KEY.KEY=VALUE"),
            ("=3", "expected KEY.KEY=VALUE"),
            ("train.kk=3", "unknown key 'train.kk'; did you mean 'k'"),
            ("trian.k=3", "unknown key 'trian'; did you mean 'train'"),
            ("model.steps.more=3", "'steps' holds a value, not a section"),
            ("train.k=[", "is not a YAML value"),
            ("train.k=abc", "valid integer"),
        ],
    )
    def test_mistakes_are_one_line(self, setting: str, said: str) -> None:
        with pytest.raises(ConfigError) as error:
            load(None, [setting])
        assert said in str(error.value) and "\n" not in str(error.value)


class TestCheck:
    @pytest.fixture
    def config(self) -> RunConfig:
        return load(str(TINY))

    def edited(self, config: RunConfig, **sections: object) -> RunConfig:
        values = config.model_dump()
        for section, update in sections.items():
            values[section] = update if isinstance(update, tuple) else values[section] | update
        return RunConfig.model_validate(values)

    @pytest.mark.parametrize(
        ("sections", "said"),
        [
            ({"tune": {"concepts": ["\u00e9clair"]}}, "unknown concept '\u00e9clair': known: cat, dots"),
            ({"tune": {"concepts": ["stirpes"]}}, "unknown concept 'stirpes': did you mean 'stripes'"),
            ({"model": {"spec": "./nowhere"}}, "no such model: './nowhere'"),
            ({"model": {"spec": "canvs"}}, "no such model: 'canvs'; expected 'canvas'"),
            ({"prompts": {"templates": {"train": ["A {object}."]}}}, "none of split 'validation'"),
            ({"prompts": {"templates": {"train": ["A {stile}."]}}}, "unknown placeholder 'stile'"),
            ({"prompts": {"files": ["nowhere.csv"]}}, "no such prompt file: nowhere.csv"),
            ({"tune": {"concepts": ["neon"]}, "domains": LONE}, "domain 'style' has one concept, 'neon'; a removal"),
            (
                {"prompts": {"templates": {"train": ["A {object}."], **OTHERS}}},
                "no crossed training prompts ask for style",
            ),
            (
                # No object is removed, but all are scored.
                {"tune": {"concepts": ["neon"]}, "prompts": {"templates": {**OTHERS, "train": CROSSED[:1]}}},
                "no plain training prompts ask for object 'cat'",
            ),
            (
                {"prompts": {"templates": {**OTHERS, "train": CROSSED, "validation": ["One {object}."]}}},
                "no validation prompts ask for style 'stripes' and for others beside it",
            ),
            (
                {"method": ("steering",), "prompts": {"templates": {"train": ["A {object}."], **OTHERS}}},
                "no training prompts ask for style 'stripes' and for others beside it",
            ),
        ],
    )
    def test_first_mistake(self, config: RunConfig, sections: dict[str, object], said: str) -> None:
        with pytest.raises(UserError) as error:
            check(self.edited(config, **sections))
        assert said in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("7,7,512,512", "ask for other sizes (512 x 512: 1) than the run's 32 x 32; add `ignore: [size]`"),
            ("7,1,32,32", "ask for a guidance such as 1.0, but the run has 2.5, with an unconditional half"),
        ],
    )
    def test_what_a_benchmark_brings(self, config: RunConfig, tmp_path: Path, row: str, said: str) -> None:
        path = tmp_path / "i2p.csv"
        path.write_text(f"prompt,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height\nA cup.,{row}\n")
        with pytest.raises(UserError) as error:
            check(self.edited(config, prompts={"files": [str(path)]}, method=("saeuron", "negative_prompt")))
        assert said in str(error.value) and "\n" not in str(error.value)
        told = {"path": str(path), "ignore": ["guidance", "size"]}
        check(self.edited(config, prompts={"files": [told]}))

    @pytest.mark.parametrize("variant", LABELLED)
    def test_variants_that_learn_from_labels(self, config: RunConfig, variant: str) -> None:
        bare = {"templates": {**OTHERS, "train": ["A picture."]}}
        sections = {"train": {"variant": variant}, "tune": {"concepts": []}}
        check(self.edited(config, **sections))
        check(self.edited(config, tune={"concepts": []}, prompts=bare))
        with pytest.raises(
            ConfigError, match=f"^train.variant '{variant}' learns from concept labels, but the rows have"
        ):
            check(self.edited(config, **sections, prompts=bare))

    def test_hookpoint(self, config: RunConfig) -> None:
        style = config.domains["style"].model_copy(update={"hookpoints": ("unet.up_blocks.0.atentions.1",)})
        with pytest.raises(UnknownName, match=r"did you mean 'unet\.up_blocks\.0\.attentions\.1'"):
            check(config.model_copy(update={"domains": {**config.domains, "style": style}}))

    def test_judge(self, config: RunConfig) -> None:
        style = config.domains["style"].model_copy(update={"judge": "canvass"})
        with pytest.raises(UnknownName, match="unknown judge 'canvass': did you mean 'canvas'"):
            check(config.model_copy(update={"domains": {**config.domains, "style": style}}))

    @pytest.mark.parametrize(
        ("concept", "said"),
        [
            ({"name": "wood", "domain": "sytle"}, "unknown domain 'sytle': did you mean 'style'"),
            ({"name": "neon", "domain": "style"}, "part of the configuration already (in style)"),
            ({"name": "neon", "domain": "object"}, "part of the configuration already (in style)"),
            ({"templates": {"train": ["A {stlye} {object}."]}}, "unknown placeholder 'stlye'"),
            ({"templates": {"train": ["A {object}."]}}, "no train template names {style} and another domain"),
            ({"templates": {"train": ["A {style} {object}."]}}, "no validation template names {style}"),
        ],
    )
    def test_added(self, config: RunConfig, concept: dict[str, object], said: str) -> None:
        with pytest.raises(UserError) as error:
            check_added(ConceptConfig.model_validate({"name": "grain", "domain": "style"} | concept), config)
        assert said in str(error.value) and "\n" not in str(error.value)

    def test_an_added_concept_is_judged_at_the_size_of_the_run(self, config: RunConfig) -> None:
        large = config.model_copy(update={"model": config.model.model_copy(update={"size": (64, 64)})})
        concept = ConceptConfig.model_validate({"name": "grain", "domain": "style"})
        check_added(concept, config)
        with pytest.raises(ConfigError) as whole:
            check(large)
        with pytest.raises(ConfigError) as added:
            check_added(concept, large)
        assert str(added.value) == str(whole.value) and "64" in str(added.value)

    @pytest.mark.parametrize(("part", "key"), [("model", "guidance"), ("train", "lr")])
    @pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
    def test_numbers_are_finite(self, config: RunConfig, part: str, key: str, value: str) -> None:
        told = config.model_dump(mode="json")
        told[part][key] = float(value)
        with pytest.raises(ValidationError, match="finite number"):
            RunConfig.model_validate(told)

    def test_an_object_is_scored_alone(self, config: RunConfig) -> None:
        templates = {s: ["A {object} in {style} style."] for s in ("train", "validation", "test")}
        concept = ConceptConfig.model_validate({"name": "bolt", "domain": "object", "templates": templates})
        with pytest.raises(ConfigError, match=r"no train template names \{object\} alone"):
            check_added(concept, config)


class TestConceptFile:
    def test_reads_it(self, write) -> None:
        assert load_concept(Path(write("name: grain\ndomain: style\n"))) == ConceptConfig(name="grain", domain="style")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("name: grain\n", "domain: Field required"),
            ("name: grain\ndomian: style\n", "did you mean 'domain'"),
            ("name: ''\ndomain: style\n", "name: expected a name without blanks around it"),
            ("grain", "expected a mapping"),
        ],
    )
    def test_mistakes(self, write, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as error:
            load_concept(Path(write(text)))
        # What is missing comes first, so the nearest key may be in "more".
        assert said in str(error.value) or "more" in str(error.value)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            load_concept(tmp_path / "none.yaml")

    @pytest.mark.parametrize("path", sorted((EMBEDDED / ".." / ".." / "examples").glob("*.yaml")), ids=lambda p: p.name)
    def test_examples(self, path: Path) -> None:
        if "name" in yaml.safe_load(path.read_text()):
            check_added(load_concept(path), load("canvas"))
        else:
            load(str(path))
