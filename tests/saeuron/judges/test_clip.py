"""CLIP and SigLIP as judges, against plain loops over labels and images, on tiny random models saved here."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from saeuron.canvas.model import build_tokenizer
from saeuron.errors import BadModel, ConfigError
from saeuron.judges import choices, create

LABELS = ("neon", "dots", "mosaic", "watercolour", "sepia")
TEMPLATES = ("a picture in {label} style", "{label}", "a {label} drawing")
SIDE = 24


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20)
    torch.manual_seed(3)
    model = CLIPModel(config)
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
    ).save_pretrained(folder)  # fmt: skip
    return folder


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
    _spread(model)
    torch.nn.init.constant_(model.logit_scale, 1.5)
    torch.nn.init.constant_(model.logit_bias, -0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def _spread(model):
    """Make the weights large, so that labels and images differ by more than rounding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
            elif name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.1)


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
    assert judge.labels is None and choices(judge, ("neon", "dots", "neon")) == ("dots", "neon")


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
    with pytest.raises(ConfigError, match="needs a model; expected clip:FOLDER or clip:HUB_ID"):
        create("clip", "style")


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
