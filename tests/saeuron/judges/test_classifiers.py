"""Judges over other people's classifiers: tiny random ones of the same layout, against plain references."""

import hashlib
import math
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.judges import Judgement, check, choices, create
from saeuron.judges import nudenet as nudenet_file
from saeuron.judges import unlearncanvas as benchmark
from saeuron.judges.judge import Detection
from saeuron.judges.vit import of_weights

CLASSES = ("tabby", "Egyptian cat", "zebra", "moon")


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (36, 5, 7, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((40, 30), Image.Resampling.BILINEAR)) for c in coarse])


def tiny_vit(classes, width=64, heads=1, side=32, patch=8):
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=96, image_size=side,
        patch_size=patch, layer_norm_eps=1e-6, id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )  # fmt: skip
    torch.manual_seed(1)
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        # Large weights and small biases: what is seen depends on the image.
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5 if "projection" in name else 0.3)
            elif name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    tiny_vit(CLASSES).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]
    ).save_pretrained(folder)
    return folder


def shares(logits):
    top = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(top) for x in top]


@torch.no_grad()
def test_a_classifier_judges_as_a_plain_loop_over_it(classifier_folder, pictures):
    judge = create(f"classifier:{classifier_folder}", "object")
    assert judge.labels == CLASSES == choices(judge, ("zebra",))
    model, asked = ViTForImageClassification.from_pretrained(classifier_folder).eval(), ("moon", "tabby", "zebra")
    seen = judge(pictures, asked)
    for picture, found in zip(pictures, seen, strict=True):
        small = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR)) / 255
        x = torch.from_numpy((small - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]).float().permute(2, 0, 1)[None]
        logits = model(x).logits[0].tolist()
        expected = shares([logits[CLASSES.index(label)] for label in asked])
        assert found.label == asked[int(np.argmax(expected))]
        assert found.score == pytest.approx(max(expected), abs=2e-4)
    assert len({found.label for found in seen}) > 1
    with pytest.raises(UnknownName, match="label of the judge 'classifier' 'zebras': did you mean 'zebra'"):
        judge(pictures[:1], ("zebras",))
    with pytest.raises(ConfigError, match="uses no sentences"):
        create(f"classifier:{classifier_folder}", "object", ("a {label}",))


def test_several_labels_may_mean_one_concept(classifier_folder, pictures):
    spec, told = f"classifier:{classifier_folder}", {"cat": ("moon", "Egyptian cat"), "horse": ("zebra",)}
    plain, judge = create(spec, "object"), create(spec, "object", labels=told)
    assert judge.labels == ("cat", "horse", "tabby")
    named = {"moon": "cat", "Egyptian cat": "cat", "zebra": "horse", "tabby": "tabby"}
    inner = plain(pictures, CLASSES)
    assert [j.label for j in judge(pictures, judge.labels)] == [named[j.label] for j in inner]
    assert {j.label for j in inner} >= {"moon", "Egyptian cat"}
    assert judge.identity.startswith(plain.identity) and judge.identity != plain.identity
    check(spec, "object", ("cat", "horse"), renamed=told)
    with pytest.raises(UnknownName, match=r"'cat'.*judge_labels, judge: clip:MODEL or none"):
        check(spec, "object", ("cat",))
    with pytest.raises(UnknownName, match="label 'zebras': did you mean 'zebra'"):
        create(spec, "object", labels={"horse": ("zebras",)})
    with pytest.raises(ConfigError, match="gives 'moon' twice"):
        create(spec, "object", labels={"night": ("moon",), "sky": ("moon",)})


def test_a_classifier_is_known_by_its_content_and_refused_without_safetensors(classifier_folder, tmp_path):
    known = create(f"classifier:{classifier_folder}", "object").identity
    assert known.startswith("classifier-")
    tiny_vit((*CLASSES, "more")).save_pretrained(tmp_path)
    assert create(f"classifier:{tmp_path}", "object").identity != known
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadModel, match=r"holds no .safetensors file"):
        create(f"classifier:{tmp_path}", "object")
    with pytest.raises(BadModel, match=r"no such folder: '\./none'; expected classifier:FOLDER with an image classif"):
        create("classifier:./none", "object")
    with pytest.raises(ConfigError, match="needs a model; expected classifier:FOLDER or classifier:HUB_ID"):
        create("classifier", "object")


def timm_names(model):
    """The weights of transformers' ViT under timm's names."""
    found, state = {}, model.state_dict()
    for name, value in state.items():
        name = name.removeprefix("vit.").replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("embeddings.cls_token", "cls_token").replace("embeddings.position_embeddings", "pos_embed")
        name = name.replace("layers.", "blocks.").replace("layernorm_before", "norm1").replace("attention.", "attn.")
        name = name.replace("layernorm_after", "norm2").replace("layernorm", "norm").replace("classifier", "head")
        found[name.replace("o_proj", "proj")] = value
    for block in range(model.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [found.pop(f"blocks.{block}.attn.{part}_proj.{kind}") for part in "qkv"]
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


@torch.no_grad()
def test_the_plain_transformer_is_that_of_transformers():
    model = tiny_vit(CLASSES, width=128, heads=2, side=48, patch=16)
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    mine = of_weights(timm_names(model))
    assert torch.allclose(mine(images), model(images).logits, atol=2e-4)
    assert torch.allclose(mine.features(images), model.vit(images).last_hidden_state[:, 0], atol=2e-4)
    with pytest.raises(BadModel, match="not those of a vision transformer with timm's names"):
        of_weights({"head.weight": torch.zeros(3, 4)})


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    for name, classes in benchmark.HEADS.items():
        weights = timm_names(tiny_vit(classes, side=224, patch=32))
        torch.save({"model_state_dict": weights, "epoch": 3}, folder / f"{name}.pth")
        assert benchmark.convert(folder / f"{name}.pth", folder / "heads") == folder / "heads" / f"{name}.safetensors"
    return folder


@torch.no_grad()
def test_the_benchmarks_heads_judge_as_its_own_script_does(benchmark_folder, pictures):
    for domain, classes in benchmark.HEADS.items():
        judge = create(f"unlearncanvas:{benchmark_folder / 'heads'}", domain)
        # The benchmark's names, as its prompts have them.
        assert [label.replace(" ", "_") for label in judge.labels] == list(classes)
        classes = judge.labels
        model = tiny_vit(classes, side=224, patch=32)
        logits = []
        for picture in pictures[:4]:
            small = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BILINEAR)) / 255
            logits.append(model(torch.from_numpy((small - 0.5) / 0.5).float().permute(2, 0, 1)[None]).logits[0])
        found = judge(pictures[:4], classes)
        assert [j.label for j in found] == [classes[int(x.argmax())] for x in logits]
        assert [j.score for j in found] == pytest.approx([max(shares(x.tolist())) for x in logits], abs=2e-3)
        assert judge.features(pictures[:2]).shape == (2, 64)


def test_the_benchmarks_classes_are_pinned_in_their_order():
    assert [len(classes) for classes in benchmark.HEADS.values()] == [51, 20]
    assert all(list(classes) == sorted(classes) for classes in benchmark.HEADS.values())
    told = hashlib.sha256("\n".join((*benchmark.STYLES, *benchmark.OBJECTS)).encode()).hexdigest()
    assert told.startswith(PINNED), told


PINNED = "e9a7a8092005dde2"


def test_a_head_is_known_by_its_content_its_classes_and_its_preprocessing(benchmark_folder):
    judge = create(f"unlearncanvas:{benchmark_folder / 'heads'}", "style")
    content = hashlib.sha256((benchmark_folder / "heads" / "style.safetensors").read_bytes()).hexdigest()[:16]
    assert judge.identity == f"unlearncanvas-{content}-51-classes-rgb-224x224-bilinear-mean0.5-std0.5"
    _, about = load_tensors(benchmark_folder / "heads" / "style.safetensors")
    assert about["checkpoint_sha256"] == hashlib.sha256((benchmark_folder / "style.pth").read_bytes()).hexdigest()


def test_a_head_that_is_not_there_or_not_one_is_refused(benchmark_folder, tmp_path, pictures):
    with pytest.raises(UnknownName, match="domain of the judge 'unlearncanvas' 'place': known: object, style"):
        create(f"unlearncanvas:{benchmark_folder}", "place")
    with pytest.raises(
        BadModel, match=r"holds no style.safetensors; make it of the benchmark's checkpoint: saeuron unl"
    ):
        create(f"unlearncanvas:{tmp_path}", "style")
    with pytest.raises(ConfigError, match="needs a folder"):
        create("unlearncanvas", "style")
    save_tensors(tmp_path / "style.safetensors", timm_names(tiny_vit(CLASSES, side=224, patch=32)), {})
    with pytest.raises(BadModel, match="has 4 classes; expected 51"):
        create(f"unlearncanvas:{tmp_path}", "style")(pictures[:1], ("Cartoon",))


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_checkpoint_that_holds_code_is_refused(tmp_path, capsys):
    torch.save({"model_state_dict": Code()}, tmp_path / "code.pth")
    with pytest.raises(BadModel, match="cannot be read as weights alone") as caught:
        benchmark.convert(tmp_path / "code.pth", tmp_path)
    assert "\n" not in str(caught.value) and capsys.readouterr().out == ""
    torch.save({"model_state_dict": timm_names(tiny_vit(CLASSES))}, tmp_path / "four.pth")
    with pytest.raises(BadModel, match="has 4 classes; expected 51"):
        benchmark.convert(tmp_path / "four.pth", tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    for name, said in (("list.pth", "holds no classifier"), ("none.pth", "no such file")):
        with pytest.raises(BadModel, match=said):
            benchmark.convert(tmp_path / name, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.fixture
def detector(monkeypatch, tmp_path):
    """A package in NudeNet's place, whose detector finds parts by an image's first pixel."""
    (tmp_path / "nudenet").mkdir()
    (tmp_path / "nudenet" / "320n.onnx").write_bytes(b"weights")
    seen = []

    class NudeDetector:
        def detect(self, image):
            seen.append(image)
            found = {0: [], 1: [("FACE_FEMALE", 0.9), ("BELLY_COVERED", 0.8)], 2: [("BELLY_EXPOSED", 0.5)]}
            found[3] = [("BELLY_EXPOSED", 0.5), ("FEET_EXPOSED", 0.7)]
            return [{"class": c, "score": s, "box": [1, 2, 3, 4]} for c, s in found[int(image[0, 0, 2])]]

    fake = types.SimpleNamespace(version="9.9", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(nudenet_file, "distribution", lambda name: fake)
    monkeypatch.setitem(sys.modules, "nudenet", types.SimpleNamespace(NudeDetector=NudeDetector))
    return seen


def test_nudity_is_an_exposed_part_above_the_threshold(detector):
    images = np.zeros((4, 8, 6, 3), np.uint8)
    images[:, 0, 0, 0] = range(4)  # the package is given BGR, so red is its last channel
    judge = create("nudenet", "content")
    found = judge(images, judge.labels)
    assert [j.label for j in found] == ["clothed", "clothed", "clothed", "nudity"]
    assert [j.score for j in found] == [1.0, 1.0, 0.5, 0.7]
    # Everything is kept, whatever the threshold.
    assert found[2].found == (Detection("BELLY_EXPOSED", 0.5, (1, 2, 3, 4)),) and found[0].found == ()
    assert [j.label for j in create("nudenet:0.45", "content")(images, judge.labels)][2] == "nudity"
    assert [j.label for j in create("nudenet:0.75", "content")(images, judge.labels)] == ["clothed"] * 4
    assert judge.labels == ("nudity", "clothed") and judge.thresholds == (0.45, 0.6, 0.75)
    assert (detector[1][0, 0] == [0, 0, 1]).all()


def test_nudenet_is_its_version_weights_and_threshold(detector):
    content = hashlib.sha256(b"weights").hexdigest()[:16]
    assert create("nudenet", "content").identity == f"nudenet-9.9-{content}-at-0.6-320px"
    assert create("nudenet:0.45", "content").identity == f"nudenet-9.9-{content}-at-0.45-320px"
    for bad in ("x", "0.1", "2"):
        with pytest.raises(ConfigError, match=f"got '{bad}'; expected a threshold from 0.2 to 1"):
            create(f"nudenet:{bad}", "content")


def test_without_its_package_nudenet_says_what_to_install():
    try:
        from importlib.metadata import distribution

        distribution("nudenet")
    except Exception:
        with pytest.raises(ConfigError, match=r"is not installed; install it: pip install 'saeuron\[nudenet\]'"):
            create("nudenet", "content")
    else:
        judge = create("nudenet", "content")
        blank = np.zeros((2, 48, 64, 3), np.uint8)
        assert judge(blank, judge.labels) == [Judgement("clothed", 1.0)] * 2
        assert judge.identity.startswith("nudenet-3.4.2-c15d8273adad2d0a-at-0.6")
