"""FuseNet: number of weights, fusion, unpooling, masked layers and initialisation."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from mst_distill.mst.split_teacher import specialise
from mst_distill.nets.nyudepthv2 import FuseNet, FusionFuseNet, imagenet_encoders, small_xavier
from toys import make_samples

Calls = list[tuple[tuple[Tensor, ...], Tensor]]
RecordCalls = Callable[[nn.Module, str], Calls]

CLASSES = 41
SIZE = (32, 64)
LAYERS = {
    "multimodal": ["image.dropouts.4", "decoder.stages.0"],
    "image": ["encoder.stages.4", "decoder.stages.0"],
    "depth": ["encoder.stages.4", "decoder.stages.0"],
}
CHANNELS = {"image": 3, "depth": 1}
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "multimodal": lambda **options: FusionFuseNet(CLASSES, **options),
    "image": lambda **options: FuseNet(CLASSES, 3, **options),
    "depth": lambda **options: FuseNet(CLASSES, 1, **options),
}


def inputs_of(name: str, batch: int = 2, size: tuple[int, int] = SIZE) -> list[Tensor]:
    torch.manual_seed(1)
    inputs = {key: torch.randn(batch, channels, *size) for key, channels in CHANNELS.items()}
    return list(inputs.values()) if name == "multimodal" else [inputs[name]]


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def net(nets: dict[str, nn.Module], name: str) -> nn.Module:
    """Return a net in eval mode, of which all parameters require gradients."""
    return nets[name].eval().requires_grad_(True)


@pytest.fixture
def record_calls() -> Iterator[RecordCalls]:
    """Return a function that records inputs and output of each call of a layer during the test."""
    hooks: list[RemovableHandle] = []

    def record_calls(net: nn.Module, layer: str) -> Calls:
        calls: Calls = []
        module = net.get_submodule(layer)
        hooks.append(module.register_forward_hook(lambda _, args, out: calls.append((args, out))))
        return calls

    yield record_calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("image", 29_466_665), ("depth", 29_465_513), ("multimodal", 44_188_649)],
)
def test_the_nets_have_the_number_of_weights_in_their_docstrings(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in MAKERS[name]().parameters()) == expected


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (64, 32)])
def test_logits_have_one_map_for_each_class(
    net: nn.Module, name: str, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        assert net(*inputs_of(name, 1, size)).shape == (1, CLASSES, *size)


@pytest.mark.parametrize(
    ("size", "nearest"), [((240, 320), "256 x 320"), ((48, 64), "64 x 64"), ((8, 31), "32 x 32")]
)
def test_a_size_that_cannot_be_unpooled_is_an_error_that_names_the_nearest(
    net: nn.Module, name: str, size: tuple[int, int], nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}; .*such as {nearest} "):
        net(*inputs_of(name, 1, size))


@torch.no_grad()
def test_logits_have_one_channel_for_each_class() -> None:
    assert FuseNet(5, 2).eval()(torch.randn(1, 2, *SIZE)).shape == (1, 5, *SIZE)


@torch.no_grad()
def test_masked_layers_return_the_deepest_maps(
    net: nn.Module, name: str, record_calls: RecordCalls
) -> None:
    calls = {layer: record_calls(net, layer) for layer in LAYERS[name]}
    net(*inputs_of(name))
    height, width = SIZE
    expected = {
        "image.dropouts.4": (2, 512, height // 32, width // 32),
        "decoder.stages.0": (2, 512, height // 16, width // 16),
        "encoder.stages.4": (2, 512, height // 16, width // 16),
    }
    for layer, recorded in calls.items():
        assert [tuple(out.shape) for _, out in recorded] == [expected[layer]]


def test_the_teachers_can_be_split_after_their_masked_layers(net: nn.Module, name: str) -> None:
    """The layers before a mask, most of the net, are shared by all specialists."""
    shapes = {key: (channels, *SIZE) for key, channels in CHANNELS.items()}
    samples, _ = make_samples(2, shapes, CLASSES, dense=SIZE)
    split = specialise(name, net, {layer: nn.Identity() for layer in LAYERS[name]}, samples)
    assert all(isinstance(tail, fx.GraphModule) for tail in split.tails.values())
    for tail in split.tails.values():
        assert not any(
            path.startswith(("encoder", "image", "depth")) for path, _ in tail.named_parameters()
        )


@torch.no_grad()
def test_colour_is_replaced_by_the_mean_of_colour_and_depth_after_every_stage(
    nets: dict[str, nn.Module], record_calls: RecordCalls
) -> None:
    fusion = nets["multimodal"].eval()
    colour_stages = [record_calls(fusion, f"image.stages.{stage}") for stage in range(5)]
    depth_stages = [record_calls(fusion, f"depth.stages.{stage}") for stage in range(5)]
    colour_pool, depth_pool = record_calls(fusion, "image.pool"), record_calls(fusion, "depth.pool")
    image, depth = inputs_of("multimodal")
    fusion(image, depth)
    for stage in range(5):
        (((image_in,), image_out),), (((depth_in,), depth_out),) = (
            colour_stages[stage],
            depth_stages[stage],
        )
        assert torch.equal(image_in, image)
        assert torch.equal(depth_in, depth)
        assert torch.equal(colour_pool[stage][0][0], (image_out + depth_out) / 2)
        assert torch.equal(depth_pool[stage][0][0], depth_out)
        assert not torch.equal(image_out, depth_out)
        image, depth = colour_pool[stage][1][0], depth_pool[stage][1][0]


@torch.no_grad()
def test_fusing_a_map_with_itself_gives_the_logits_of_the_unimodal_net(
    nets: dict[str, nn.Module],
) -> None:
    """Three equal channels with a third of the weights each are equivalent to one channel.

    The test runs in float64: a rounding error could move the maximum of a window, and the net would
    unpool to another position.
    """
    unimodal = copy.deepcopy(nets["depth"]).double().eval()
    state = {}
    for key, value in unimodal.state_dict().items():
        module, rest = key.split(".", 1)
        for target in ("image", "depth") if module == "encoder" else ("decoder",):
            state[f"{target}.{rest}"] = value
    first = "image.stages.0.0.weight"
    state[first] = state[first].repeat(1, 3, 1, 1) / 3
    fusion = FusionFuseNet(CLASSES).double().eval()
    fusion.load_state_dict(state)
    maps = inputs_of("depth")[0].double()
    expected = unimodal(maps)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        fusion(maps.repeat(1, 3, 1, 1), maps), expected, rtol=1e-9, atol=1e-12
    )


@torch.no_grad()
def test_the_decoder_unpools_to_the_positions_of_the_encoder_s_maxima(
    net: nn.Module, name: str, record_calls: RecordCalls
) -> None:
    pools = record_calls(net, "image.pool" if name == "multimodal" else "encoder.pool")
    unpools = record_calls(net, "decoder.unpool")
    net(*inputs_of(name))
    assert len(pools) == len(unpools) == 5
    for (_, (_, indices)), ((_, used), _) in zip(pools, reversed(unpools), strict=True):
        assert used is indices


@torch.no_grad()
def test_dropout_follows_three_pools_and_lies_between_the_decoder_s_stages(
    net: nn.Module, name: str, record_calls: RecordCalls
) -> None:
    dropouts = [path for path, layer in net.named_modules() if isinstance(layer, nn.Dropout)]
    encoders = ["image", "depth"] if name == "multimodal" else ["encoder"]
    expected = [f"{encoder}.dropouts.{stage}" for encoder in encoders for stage in (2, 3, 4)]
    assert dropouts == [*expected, "decoder.dropout"]
    assert all(net.get_submodule(path).p == 0.4 for path in dropouts)
    calls = {path: record_calls(net, path) for path in dropouts}
    net(*inputs_of(name))
    assert [len(recorded) for recorded in calls.values()] == [1] * len(expected) + [4]


@torch.no_grad()
def test_dropout_is_applied_only_in_training_mode(net: nn.Module, name: str) -> None:
    inputs = inputs_of(name)
    assert torch.equal(net(*inputs), net(*inputs))
    for layer in net.modules():
        layer.training = isinstance(layer, nn.Dropout)
    assert not torch.equal(net(*inputs), net(*inputs))


@torch.no_grad()
def test_a_dropout_of_0_drops_no_values(name: str) -> None:
    net, inputs = MAKERS[name](dropout=0.0).train(), inputs_of(name)
    assert torch.equal(net(*inputs), net(*inputs))


@torch.no_grad()
def test_the_logits_of_a_sample_do_not_depend_on_the_batch(net: nn.Module, name: str) -> None:
    net, inputs = copy.deepcopy(net).double(), [tensor.double() for tensor in inputs_of(name, 3)]
    alone = torch.cat([net(*(tensor[i : i + 1] for tensor in inputs)) for i in range(3)])
    torch.testing.assert_close(net(*inputs), alone, rtol=1e-9, atol=1e-12)


def test_every_weight_and_every_input_affects_the_logits(net: nn.Module, name: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in inputs_of(name)]
    net(*inputs).square().sum().backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key
        weight.grad = None
    assert all((tensor.grad.flatten(1).abs().sum(dim=1) > 0).all() for tensor in inputs)


def layers_of(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {path: layer for path, layer in net.named_modules() if isinstance(layer, kind)}


def test_small_xavier_draws_from_the_distributions_of_the_released_implementation(
    name: str,
) -> None:
    torch.manual_seed(0)
    net = MAKERS[name]()
    small_xavier(net)
    convolutions = layers_of(net, nn.Conv2d)
    assert len(convolutions) == {"multimodal": 39, "image": 26, "depth": 26}[name]
    for path, layer in convolutions.items():
        out, into, height, width = layer.weight.shape
        expected = 0.02 * (2 / ((into + out) * height * width)) ** 0.5
        error = 4 / (2 * layer.weight.numel()) ** 0.5  # four standard errors
        assert layer.weight.std().item() == pytest.approx(expected, rel=error), path
        assert abs(layer.weight.mean().item()) < 4 * expected / layer.weight.numel() ** 0.5, path
        # 68 % of a normal distribution lie within one standard deviation, 58 % of a uniform one.
        within = (layer.weight.abs() < expected).double().mean().item()
        assert within == pytest.approx(0.6827, abs=2 / layer.weight.numel() ** 0.5), path
        assert not layer.bias.any(), path
    norms = layers_of(net, nn.BatchNorm2d)
    assert len(norms) == len(convolutions) - 1
    weights = torch.cat([layer.weight.detach() for layer in norms.values()])
    assert weights.mean().item() == pytest.approx(1, abs=0.002)
    assert weights.std().item() == pytest.approx(0.02, rel=0.06)
    for path, layer in norms.items():
        assert not layer.bias.any(), path
        assert not layer.running_mean.any(), path
        assert (layer.running_var == 1).all(), path


FIRST = (0, 7, 14, 24, 34)
"""Index of each stage's first convolution in torchvision's VGG-16 with batch norm."""

CONVOLUTIONS = (2, 2, 3, 3, 3)

FILE = "vgg16_bn-6c64b313.pth"
"""File name of the weights that torchvision downloads."""


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TORCH_HOME with random weights for VGG-16; those after the encoder are zeros."""
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        shapes = dict(vgg16_bn(weights=None).state_dict())
    rng = torch.Generator().manual_seed(7)
    state = {}
    for key, value in shapes.items():
        if key.startswith("classifier"):
            # A view of a single number, so that the file has 60 MB instead of 550.
            state[key] = torch.zeros(1).expand(prod(value.shape)).view(value.shape)
        elif value.dtype == torch.long:
            state[key] = torch.tensor(11)
        elif key.endswith("running_var"):
            state[key] = torch.rand(value.shape, generator=rng) + 0.5
        else:
            scale = 1 / prod(value.shape[1:]) ** 0.5
            state[key] = torch.randn(value.shape, generator=rng) * scale
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, home / "hub" / "checkpoints" / FILE)
    return home


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set an empty TORCH_HOME, and a proxy address on which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "" if name == "no_proxy" else proxy)
        monkeypatch.delenv(name.upper(), raising=False)
    # A cached opener would use the earlier proxies.
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def weights(
    monkeypatch: pytest.MonkeyPatch, offline: Path, torch_home: Path
) -> dict[str, torch.Tensor]:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return torch.load(torch_home / "hub" / "checkpoints" / FILE)


def test_imagenet_weights_are_loaded_into_every_encoder_and_nowhere_else(
    name: str, weights: dict[str, Tensor]
) -> None:
    torch.manual_seed(3)
    net = MAKERS[name]()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    imagenet_encoders(net)
    after = net.state_dict()
    encoders = {"multimodal": {"image": 3, "depth": 1}}.get(name, {"encoder": CHANNELS.get(name)})
    compared = set()
    for encoder, channels in encoders.items():
        for stage, (first, count) in enumerate(zip(FIRST, CONVOLUTIONS, strict=True)):
            for index in range(count):
                convolution, norm = 3 * index, 3 * index + 1
                for target, source in ((convolution, first + convolution), (norm, first + norm)):
                    for key in [key for key in weights if key.startswith(f"features.{source}.")]:
                        expected = weights[key]
                        name_in_net = f"{encoder}.stages.{stage}.{target}.{key.split('.')[-1]}"
                        if name_in_net.endswith("stages.0.0.weight") and channels == 1:
                            red, green, blue = expected.unbind(1)
                            expected = ((red + green + blue) / 3)[:, None]
                        torch.testing.assert_close(after[name_in_net], expected, rtol=0, atol=1e-7)
                        compared.add(name_in_net)
    # A convolution has two tensors, a batch norm five.
    assert len(compared) == len(encoders) * 13 * (2 + 5)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == (key not in compared), key


@torch.no_grad()
def test_a_colour_encoder_computes_the_features_of_vgg(weights: dict[str, Tensor]) -> None:
    from torchvision.models import vgg16_bn

    net = FuseNet(CLASSES, 3).eval()
    imagenet_encoders(net)
    # The weights of the later layers, which are most of VGG-16, are not allocated.
    with torch.device("meta"):
        vgg = vgg16_bn(weights=None).features
    features = {key.removeprefix("features."): value for key, value in weights.items()}
    vgg.load_state_dict({k: v for k, v in features.items() if "classifier" not in k}, assign=True)
    maps = inputs_of("image")[0]
    expected = vgg.eval()(maps)
    for stage in net.encoder.stages:
        maps, _ = net.encoder.pool(stage(maps))
    assert expected.std() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_an_error_in_downloading_weights_names_the_expected_path(
    offline: Path,
) -> None:
    with pytest.raises(ConnectionError, match="cannot be downloaded") as error:
        imagenet_encoders(FuseNet(CLASSES, 1))
    message = str(error.value)
    assert f"{offline / 'hub' / 'checkpoints' / FILE} does not exist, " in message
    assert "copy the file there, or set start to small_xavier" in message


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4 the rest did not come"])
def test_a_damaged_file_of_weights_is_an_error_that_names_it(offline: Path, content: bytes) -> None:
    file = offline / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{FILE} is damaged .* or set start to small_xavier"):
        imagenet_encoders(FuseNet(CLASSES, 1))
