"""FuseNet: its size, what it fuses, where it unpools to, and the layers that get masks."""

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
Listen = Callable[[nn.Module, str], Calls]

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
    made = {of: torch.randn(batch, channels, *size) for of, channels in CHANNELS.items()}
    return list(made.values()) if name == "multimodal" else [made[name]]


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def net(nets: dict[str, nn.Module], name: str) -> nn.Module:
    """In eval mode, all of it learning."""
    return nets[name].eval().requires_grad_(True)


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Gives inputs and output of every call that a layer gets until the test is over."""
    hooks: list[RemovableHandle] = []

    def listen(net: nn.Module, layer: str) -> Calls:
        calls: Calls = []
        module = net.get_submodule(layer)
        hooks.append(module.register_forward_hook(lambda _, given, out: calls.append((given, out))))
        return calls

    yield listen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("image", 29_466_665), ("depth", 29_465_513), ("multimodal", 44_188_649)],
)
def test_the_nets_have_the_number_of_weights_that_they_say(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in MAKERS[name]().parameters()) == expected


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (64, 32)])
def test_logits_are_a_map_a_class(net: nn.Module, name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert net(*inputs_of(name, 1, size)).shape == (1, CLASSES, *size)


@pytest.mark.parametrize(
    ("size", "nearest"), [((240, 320), "256 x 320"), ((48, 64), "64 x 64"), ((8, 31), "32 x 32")]
)
def test_a_size_that_cannot_be_unpooled_is_refused_with_the_nearest(
    net: nn.Module, name: str, size: tuple[int, int], nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}, .*such as {nearest} "):
        net(*inputs_of(name, 1, size))


@torch.no_grad()
def test_logits_have_as_many_channels_as_there_are_classes() -> None:
    assert FuseNet(5, 2).eval()(torch.randn(1, 2, *SIZE)).shape == (1, 5, *SIZE)


@torch.no_grad()
def test_masked_layers_give_the_deepest_maps(net: nn.Module, name: str, listen: Listen) -> None:
    calls = {layer: listen(net, layer) for layer in LAYERS[name]}
    net(*inputs_of(name))
    height, width = SIZE
    expected = {
        "image.dropouts.4": (2, 512, height // 32, width // 32),
        "decoder.stages.0": (2, 512, height // 16, width // 16),
        "encoder.stages.4": (2, 512, height // 16, width // 16),
    }
    for layer, heard in calls.items():
        assert [tuple(out.shape) for _, out in heard] == [expected[layer]]


def test_the_teachers_can_be_cut_behind_their_masked_layers(net: nn.Module, name: str) -> None:
    """What lies in front of a mask, most of the net, is the same for all specialists."""
    shapes = {of: (channels, *SIZE) for of, channels in CHANNELS.items()}
    samples, _ = make_samples(2, shapes, CLASSES, dense=SIZE)
    cut = specialise(name, net, {layer: nn.Identity() for layer in LAYERS[name]}, samples)
    assert all(isinstance(tail, fx.GraphModule) for tail in cut.tails.values())
    for tail in cut.tails.values():
        assert not any(
            path.startswith(("encoder", "image", "depth")) for path, _ in tail.named_parameters()
        )


@torch.no_grad()
def test_colour_becomes_the_mean_of_colour_and_depth_after_every_stage(
    nets: dict[str, nn.Module], listen: Listen
) -> None:
    fusion = nets["multimodal"].eval()
    colour = [listen(fusion, f"image.stages.{stage}") for stage in range(5)]
    depth = [listen(fusion, f"depth.stages.{stage}") for stage in range(5)]
    fused, alone = listen(fusion, "image.pool"), listen(fusion, "depth.pool")
    image, far = inputs_of("multimodal")
    fusion(image, far)
    for stage in range(5):
        (((seen,), of_colour),), (((felt,), of_depth),) = colour[stage], depth[stage]
        assert torch.equal(seen, image)
        assert torch.equal(felt, far)
        assert torch.equal(fused[stage][0][0], (of_colour + of_depth) / 2)
        assert torch.equal(alone[stage][0][0], of_depth)
        assert not torch.equal(of_colour, of_depth)
        image, far = fused[stage][1][0], alone[stage][1][0]


@torch.no_grad()
def test_fusing_a_map_with_itself_is_the_net_of_one_modality(nets: dict[str, nn.Module]) -> None:
    """Three channels, each a third of the weights of the one, see what the one sees.

    In float64: where rounding made another place of a window the largest, the net would unpool to
    there.
    """
    alone = copy.deepcopy(nets["depth"]).double().eval()
    state = {}
    for key, value in alone.state_dict().items():
        part, rest = key.split(".", 1)
        for of in ("image", "depth") if part == "encoder" else ("decoder",):
            state[f"{of}.{rest}"] = value
    first = "image.stages.0.0.weight"
    state[first] = state[first].repeat(1, 3, 1, 1) / 3
    fusion = FusionFuseNet(CLASSES).double().eval()
    fusion.load_state_dict(state)
    maps = inputs_of("depth")[0].double()
    expected = alone(maps)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        fusion(maps.repeat(1, 3, 1, 1), maps), expected, rtol=1e-9, atol=1e-12
    )


@torch.no_grad()
def test_the_decoder_unpools_to_where_the_encoder_pooled_from(
    net: nn.Module, name: str, listen: Listen
) -> None:
    pools = listen(net, "image.pool" if name == "multimodal" else "encoder.pool")
    unpools = listen(net, "decoder.unpool")
    net(*inputs_of(name))
    assert len(pools) == len(unpools) == 5
    for (_, (_, places)), ((_, used), _) in zip(pools, reversed(unpools), strict=True):
        assert used is places


@torch.no_grad()
def test_dropout_follows_three_pools_and_stands_between_the_decoder_s_stages(
    net: nn.Module, name: str, listen: Listen
) -> None:
    forgetting = [path for path, of in net.named_modules() if isinstance(of, nn.Dropout)]
    sides = ["image", "depth"] if name == "multimodal" else ["encoder"]
    expected = [f"{side}.dropouts.{stage}" for side in sides for stage in (2, 3, 4)]
    assert forgetting == [*expected, "decoder.dropout"]
    assert all(net.get_submodule(path).p == 0.4 for path in forgetting)
    calls = {path: listen(net, path) for path in forgetting}
    net(*inputs_of(name))
    assert [len(heard) for heard in calls.values()] == [1] * len(expected) + [4]


@torch.no_grad()
def test_dropout_is_at_work_in_training_alone(net: nn.Module, name: str) -> None:
    given = inputs_of(name)
    assert torch.equal(net(*given), net(*given))
    for of in net.modules():
        of.training = isinstance(of, nn.Dropout)
    assert not torch.equal(net(*given), net(*given))


@torch.no_grad()
def test_a_share_of_nothing_is_no_dropout(name: str) -> None:
    net, given = MAKERS[name](dropout=0.0).train(), inputs_of(name)
    assert torch.equal(net(*given), net(*given))


@torch.no_grad()
def test_a_sample_s_logits_do_not_hang_on_the_batch(net: nn.Module, name: str) -> None:
    exact, given = copy.deepcopy(net).double(), [of.double() for of in inputs_of(name, 3)]
    alone = torch.cat([exact(*(of[i : i + 1] for of in given)) for i in range(3)])
    torch.testing.assert_close(exact(*given), alone, rtol=1e-9, atol=1e-12)


def test_every_weight_and_every_input_reaches_the_logits(net: nn.Module, name: str) -> None:
    given = [of.requires_grad_() for of in inputs_of(name)]
    net(*given).square().sum().backward()
    for which, weight in net.named_parameters():
        assert weight.grad is not None, which
        assert weight.grad.abs().sum() > 0, which
        weight.grad = None
    assert all((of.grad.flatten(1).abs().sum(dim=1) > 0).all() for of in given)


def layers_of(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {path: of for path, of in net.named_modules() if isinstance(of, kind)}


def test_small_xavier_draws_what_the_released_implementation_draws(name: str) -> None:
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
        # Of a normal distribution 68 % lie within one deviation; of a uniform one 58 %.
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
"""Where in torchvision's VGG-16 with batch norm each stage's first convolution stands."""

CONVOLUTIONS = (2, 2, 3, 3, 3)

FILE = "vgg16_bn-6c64b313.pth"
"""What torchvision calls the weights that it keeps."""


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME with weights of VGG-16's shape; those behind the encoder are noughts."""
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        shapes = dict(vgg16_bn(weights=None).state_dict())
    rng = torch.Generator().manual_seed(7)
    state = {}
    for key, value in shapes.items():
        if key.startswith("classifier"):
            # One number, seen as many: the file has 60 MB instead of 550.
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
    """An empty TORCH_HOME, and a proxy at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "" if name == "no_proxy" else proxy)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # would have kept the proxies it knew
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def weights(
    monkeypatch: pytest.MonkeyPatch, offline: Path, torch_home: Path
) -> dict[str, torch.Tensor]:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return torch.load(torch_home / "hub" / "checkpoints" / FILE)


def test_imagenet_s_weights_are_in_every_encoder_and_in_nothing_else(
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
            for place in range(count):
                convolution, norm = 3 * place, 3 * place + 1
                for own, given in ((convolution, first + convolution), (norm, first + norm)):
                    for key in [key for key in weights if key.startswith(f"features.{given}.")]:
                        expected = weights[key]
                        which = f"{encoder}.stages.{stage}.{own}.{key.split('.')[-1]}"
                        if which.endswith("stages.0.0.weight") and channels == 1:
                            red, green, blue = expected.unbind(1)
                            expected = ((red + green + blue) / 3)[:, None]
                        torch.testing.assert_close(after[which], expected, rtol=0, atol=1e-7)
                        compared.add(which)
    # A convolution has two tensors, a batch norm five.
    assert len(compared) == len(encoders) * 13 * (2 + 5)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == (key not in compared), key


@torch.no_grad()
def test_a_colour_encoder_sees_what_vgg_sees(weights: dict[str, Tensor]) -> None:
    from torchvision.models import vgg16_bn

    net = FuseNet(CLASSES, 3).eval()
    imagenet_encoders(net)
    # Without weights for the layers behind it, which are most of VGG-16.
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


def test_weights_that_cannot_be_fetched_are_named_with_the_folder_where_they_belong(
    offline: Path,
) -> None:
    with pytest.raises(ConnectionError, match="cannot be fetched") as error:
        imagenet_encoders(FuseNet(CLASSES, 1))
    message = str(error.value)
    assert f"{FILE} is not in {offline / 'hub' / 'checkpoints' / FILE}, " in message
    assert "bring it there, or start from small_xavier" in message


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4 the rest did not come"])
def test_a_damaged_file_of_weights_is_named(offline: Path, content: bytes) -> None:
    file = offline / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{FILE} holds no whole .* or start from small_xavier"):
        imagenet_encoders(FuseNet(CLASSES, 1))
