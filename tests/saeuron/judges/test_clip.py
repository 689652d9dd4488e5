"""CLIP and SigLIP as judges, against plain loops over labels and images, on tiny random models saved here."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from saeuron.canvas.model import build_tokenizer
from saeuron.errors import BadModel, ConfigError
from saeuron.judges import choices, create
from saeuron.judges.clip import MODEL
from tests.tiny_clip import SIDE, save_tiny_clip, spread

LABELS = ("neon", "dots", "mosaic", "watercolour", "sepia")
TEMPLATES = ("a picture in {label} style", "{label}", "a {label} drawing")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = build_tokenizer(16)
    text = SiglipTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8
    )
    torch.manual_seed(5)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    spread(model)
    torch.nn.init.constant_(model.logit_scale, 1.5)
    torch.nn.init.constant_(model.logit_bias, -0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    # 40: more than one batch. Not square, so that CLIP's crop and SigLIP's stretching show.
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (40, 5, 7, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((40, 30), Image.Resampling.BILINEAR)) for c in coarse])


def unit(vector):
    vector = np.asarray(vector, np.float64)
    return vector / math.sqrt(float((vector * vector).sum()))


def pixels(picture, siglip):
    image = Image.fromarray(picture)
    if siglip:
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        mean = std = np.array([0.5, 0.5, 0.5])
    else:
        # The shorter side becomes SIDE, then the middle is cut out.
        image = image.resize((SIDE * image.width // image.height, SIDE), Image.Resampling.BICUBIC)
        left = (image.width - SIDE) // 2
        image = image.crop((left, 0, left + SIDE, SIDE))
        mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    values = (np.asarray(image) / 255 - mean) / std
    return torch.from_numpy(values).float().permute(2, 0, 1)[None]


@torch.no_grad()
def by_loops(folder, pictures, labels, templates, siglip):
    """[images, labels] scores, one sentence and one image at a time."""
    model = (SiglipModel if siglip else CLIPModel).from_pretrained(folder)
    tokenizer = build_tokenizer(16)
    directions = []
    for label in labels:
        embedded = []
        for template in templates:
            ids = tokenizer(template.replace("{label}", label))["input_ids"]
            if siglip:
                # SigLIP reads the sentence's last place, whatever fills it.
                filled = torch.tensor([ids + [tokenizer.pad_token_id] * (16 - len(ids))])
                embedded.append(unit(model.text_model(filled).pooler_output[0]))
            else:
                # CLIP reads the first end of the sentence; without filling, the last token.
                last = model.text_model(torch.tensor([ids])).last_hidden_state[0, -1]
                embedded.append(unit(model.text_projection.weight @ last))
        directions.append(unit(sum(embedded) / len(embedded)))
    scores = []
    for picture in pictures:
        seen = model.vision_model(pixels(picture, siglip)).pooler_output[0]
        seen = unit(seen if siglip else model.visual_projection.weight @ seen)
        scale = math.exp(float(model.logit_scale))
        logits = [scale * float(seen @ d) for d in directions]
        if siglip:
            scores.append([1 / (1 + math.exp(-(x + float(model.logit_bias)))) for x in logits])
        else:
            total = sum(math.exp(x) for x in logits)
            scores.append([math.exp(x) / total for x in logits])
    return np.array(scores)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("templates", [TEMPLATES, ()])
def test_judgements_are_those_of_plain_loops(kind, templates, pictures, clip_folder, siglip_folder):
    folder = clip_folder if kind == "clip" else siglip_folder
    found = create(f"clip:{folder}", "style", templates)(pictures, LABELS)
    expected = by_loops(folder, pictures, LABELS, templates or ("a photo of a {label}",), kind == "siglip")
    assert [j.label for j in found] == [LABELS[i] for i in expected.argmax(1)]
    assert np.allclose([j.score for j in found], expected.max(1), atol=2e-5)
    # The comparison means something: labels differ, scores too, and a softmax sums to one where a sigmoid does not.
    assert len({j.label for j in found}) > 1 and np.ptp([j.score for j in found]) > 0.02
    assert np.allclose(expected.sum(1), 1) == (kind == "clip")


def test_other_labels_give_other_judgements_of_the_same_judge(clip_folder, pictures):
    judge = create(f"clip:{clip_folder}", "style", TEMPLATES)
    for labels in (LABELS, LABELS[:2], LABELS[3:], LABELS):
        expected = by_loops(clip_folder, pictures[:4], labels, TEMPLATES, siglip=False)
        assert [j.label for j in judge(pictures[:4], labels)] == [labels[i] for i in expected.argmax(1)]
    assert judge(pictures[:0], LABELS) == []
    assert judge.labels is None and choices(judge, ("neon", "dots", "neon")) == ("dots", "neon", "none of these")


@torch.no_grad()
def test_an_image_may_show_none_of_the_labels(clip_folder, pictures):
    judge = create(f"clip:{clip_folder}", "style", TEMPLATES)
    labels = choices(judge, LABELS)
    assert labels == (*sorted(LABELS), "none of these")
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), build_tokenizer(16)

    def said(text):
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=16)["input_ids"]])
        return model.text_projection.weight @ model.text_model(ids).last_hidden_state[0, -1]

    own = [[t.replace("{label}", label) for t in TEMPLATES] for label in labels[:-1]]
    sentences = [*own, ["a photo", "a picture", "a picture of something else"]]
    directions = [unit(sum(unit(said(text)) for text in each)) for each in sentences]
    found = judge(pictures, labels)
    for picture, judgement in zip(pictures, found, strict=True):
        seen = unit(model.visual_projection.weight @ model.vision_model(pixels(picture, False)).pooler_output[0])
        assert judgement.label == labels[int(np.argmax([seen @ d for d in directions]))]
    assert "none of these" in {j.label for j in judge(pictures, ("none of these", "neon"))}


@torch.no_grad()
def test_features_and_agreement_are_those_of_a_plain_loop(clip_folder, pictures):
    judge, model = create(f"clip:{clip_folder}", "style"), CLIPModel.from_pretrained(clip_folder)
    texts = [f"a {LABELS[i % 5]} picture" for i in range(len(pictures))]
    features, fit = judge.features(pictures), judge.agreement(pictures, texts)
    assert features.shape == (40, 20) and fit.shape == (40,)
    tokenizer = build_tokenizer(16)
    for i in (0, 33, 39):
        seen = model.visual_projection.weight @ model.vision_model(pixels(pictures[i], False)).pooler_output[0]
        assert np.allclose(features[i], seen.numpy(), atol=2e-4)
        ids = torch.tensor([tokenizer(texts[i])["input_ids"]])
        said = model.text_projection.weight @ model.text_model(ids).last_hidden_state[0, -1]
        assert fit[i] == pytest.approx(100 * max(0.0, float(unit(seen) @ unit(said))), abs=2e-3)
    assert judge.extractor.startswith("image embedding of clip-") and (fit > 0).any()


def test_identity_is_that_of_the_content(clip_folder, tmp_path):
    known = create(f"clip:{clip_folder}", "style").identity
    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    assert create(f"clip:{copy}", "object").identity == known
    assert create(f"clip:{copy}", "style", ("a photo of a {label}",)).identity == known
    assert create(f"clip:{copy}", "style", TEMPLATES).identity != known
    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data + b" ")
        assert create(f"clip:{copy}", "style").identity != known, name
        (copy / name).write_bytes(data)
    assert create(f"clip:{copy}", "style").identity == known


def test_what_is_no_clip_is_refused_before_anything_is_loaded(clip_folder, tmp_path, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *a, **k: pytest.fail("loaded"))
    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BadModel, match=r"holds no .safetensors file; use a model that has one"):
        create(f"clip:{copy}", "style")
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadModel, match="a model of type 'bert'; the judge 'clip' needs one of clip, siglip"):
        create(f"clip:{copy}", "style")
    (copy / "config.json").unlink()
    with pytest.raises(BadModel, match=r"config.json is missing or malformed"):
        create(f"clip:{copy}", "style")
    with pytest.raises(BadModel, match=r"no such folder: '\./nowhere'"):
        create("clip:./nowhere", "style")
    with pytest.raises(BadModel, match=r"no revision after @ in 'some/clip@'; expected owner/name@revision, or owner"):
        create("clip:some/clip@", "style")
    with pytest.raises(BadModel, match=r"no such folder: 'some/clip/large@v1'"):
        create("clip:some/clip/large@v1", "style")


@pytest.fixture
def hub(clip_folder, tmp_path, monkeypatch):
    """A hub with a CLIP: all revisions have safetensors but `old`. The list is what it was asked: (name, revision)."""
    pickled = shutil.copytree(clip_folder, tmp_path / "old")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    asked = []

    def snapshot(name, revision, allow_patterns):
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns and not any("bin" in pattern for pattern in allow_patterns)
        return str(pickled if revision == "old" else clip_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


def test_a_judge_that_names_no_model_has_the_default_one(hub, clip_folder, pictures):
    bare, named = create("clip", "style", TEMPLATES), create(f"clip:{MODEL}", "style", TEMPLATES)
    assert MODEL == "openai/clip-vit-large-patch14" and hub == []  # nothing is fetched before it is used
    assert bare.identity == named.identity == create(f"clip:{clip_folder}", "style", TEMPLATES).identity
    assert hub == [(MODEL, None)] * 2
    assert bare(pictures[:3], LABELS) == named(pictures[:3], LABELS)
    assert create("clip:google/siglip", "style", TEMPLATES).identity == bare.identity and hub[-1][0] == "google/siglip"


@pytest.mark.parametrize("revision", ["v1", "refs/pr/21", "0f1e2d3c"])
def test_a_revision_of_the_hub_is_asked_for(hub, clip_folder, revision):
    judge = create(f"clip:some/clip@{revision}", "style")
    assert judge.identity == create(f"clip:{clip_folder}", "style").identity
    assert hub == [("some/clip", revision)]


def test_a_revision_with_pickles_alone_is_refused_and_another_advised(hub):
    with pytest.raises(BadModel) as caught:
        _ = create("clip:some/clip@old", "style").identity
    assert str(caught.value) == (
        "some/clip@old holds no .safetensors file; use a model that has one, or a revision of it "
        "(owner/name@revision) that has."
    )


def test_a_folder_may_have_an_at_in_its_name(hub, clip_folder, tmp_path):
    copy = shutil.copytree(clip_folder, tmp_path / "clip@mine")
    assert create(f"clip:{copy}", "style").identity == create(f"clip:{clip_folder}", "style").identity
    assert hub == []


@pytest.mark.parametrize("template", ["a photo", "a {style} photo", "{label} {label}", "{label", "{}"])
def test_a_template_without_its_placeholder_is_refused(clip_folder, template):
    with pytest.raises(ConfigError, match=r"expected one placeholder \{label\} and no other"):
        create(f"clip:{clip_folder}", "style", ("{label}", template))


def test_weights_that_are_not_there_or_not_finite_are_refused_in_one_line(clip_folder, tmp_path, pictures):
    copy = shutil.copytree(clip_folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadModel, match="cannot load the judge's model") as caught:
        create(f"clip:{copy}", "style")(pictures[:1], LABELS)
    assert "\n" not in str(caught.value)
    model = CLIPModel.from_pretrained(clip_folder)
    torch.nn.init.constant_(model.visual_projection.weight, float("nan"))
    model.save_pretrained(copy)
    with pytest.raises(BadModel, match="scores that are not finite"):
        create(f"clip:{copy}", "style")(pictures[:1], LABELS)
    with pytest.raises(BadModel, match="cannot fetch the judge's model 'nobody/nothing'"):
        _ = create("clip:nobody/nothing", "style").identity


def test_a_tokenizer_that_lacks_its_library_is_refused_before_anything_is_loaded(siglip_folder, tmp_path, monkeypatch):
    copy = shutil.copytree(siglip_folder, tmp_path / "copy")
    config = copy / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    monkeypatch.setattr("saeuron.judges.clip.find_spec", lambda name: None)
    with pytest.raises(BadModel, match=r"needs sentencepiece; install it: pip install 'saeuron\[siglip\]'"):
        create(f"clip:{copy}", "style")
    monkeypatch.setattr("saeuron.judges.clip.find_spec", lambda name: object())
    create(f"clip:{copy}", "style")
