"""The device and its settings: precision, layout of weights, and library of matrix products."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mst_distill.parameters import Runtime
from mst_distill.training.device import (
    WIDE,
    autocast,
    place,
    prepare,
    resolve_device,
    wide_products,
)
from simulated_gpu import SimulatedGPU
from toy_runs import make_run

CPU = torch.device("cpu")
ROUNDS = {"float32": False, "bfloat16": False, "tf32": True}
"""Whether products on CUDA are rounded to TF32, by precision."""


def settings() -> tuple[Any, Any, Any]:
    """The settings for products on CUDA, for convolutions on CUDA, and for products by oneDNN."""
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def _restored_settings() -> Iterator[None]:
    before = [setting.fp32_precision for setting in settings()]
    yield
    for setting, precision in zip(settings(), before, strict=True):
        setting.fp32_precision = precision


@pytest.mark.parametrize("name", ["gpu0", "cuda:99", "", "cpuu"])
def test_the_error_for_an_unavailable_device_names_it_and_the_valid_choices(name: str) -> None:
    with pytest.raises(ValueError, match=f"runtime.device '{name}'.*'auto' or 'cpu'"):
        resolve_device(name)


def test_auto_selects_a_gpu_if_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == CPU


def test_auto_is_the_cpu_if_pytorch_has_no_kernels_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def add(*_arguments: Any) -> Tensor:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution")

    with SimulatedGPU():
        assert resolve_device("auto").type == "cuda"
        monkeypatch.setattr(Tensor, "add", add)
        with caplog.at_level(logging.WARNING, "mst_distill"):
            assert resolve_device("auto") == CPU
        with pytest.raises(ValueError, match=r"'cuda' is not available here: .*no kernel image"):
            resolve_device("cuda")
    assert "no kernel image" in caplog.text


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_autocast_sets_the_precision_of_the_run(precision: str, expected: torch.dtype) -> None:
    ones = torch.ones(2, 2)
    with autocast(CPU, Runtime(precision=precision)):
        assert (ones @ ones).dtype == expected
    assert (ones @ ones).dtype == torch.float32


@pytest.mark.parametrize("precision", ROUNDS)
@pytest.mark.parametrize("before", [False, True])
def test_products_on_cuda_are_rounded_according_to_the_precision(
    precision: str, before: bool
) -> None:
    backends = torch.backends
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = before
    prepare(CPU, Runtime(device="cpu", precision=precision))
    rounds = ROUNDS[precision]
    assert [setting.fp32_precision == "tf32" for setting in settings()[:2]] == [rounds] * 2
    # The functions by which users and libraries ask for the precision raise no error.
    assert backends.cuda.matmul.allow_tf32 is rounds
    assert backends.cudnn.allow_tf32 is rounds
    assert torch.get_float32_matmul_precision() == ("high" if rounds else "highest")
    with backends.cudnn.flags(enabled=True, allow_tf32=rounds):
        pass


def test_the_device_of_a_run_is_prepared_at_the_first_access() -> None:
    run, _ = make_run(precision="tf32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    assert run.device == CPU
    assert [setting.fp32_precision for setting in settings()[:2]] == ["tf32"] * 2


def multiply(*shape: int) -> tuple[Tensor, Tensor]:
    """A product of numbers that bfloat16 cannot represent, and the exact product."""
    torch.manual_seed(0)
    one, other = torch.randn(2, *shape)
    return one @ other, one.double() @ other.double()


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", [(600, 600), (5, 120, 120)])
def test_wide_products_are_computed_in_float32(shape: tuple[int, ...]) -> None:
    with wide_products(CPU, nn.Linear(600, 600)):
        assert error(*multiply(*shape)) < 1e-6
    found, expected = multiply(*shape)
    assert error(found.bfloat16(), expected) > 1e-3


@pytest.mark.parametrize("former", ["none", "ieee", "bf16"])
def test_wide_products_restore_the_setting(former: str) -> None:
    setting = settings()[2]
    setting.fp32_precision = former
    with wide_products(CPU, nn.Linear(600, 600)):
        pass
    assert setting.fp32_precision == former


def fail_inside() -> None:
    with wide_products(CPU, nn.Linear(600, 600)):
        raise KeyError("inside")


def test_wide_products_restore_the_setting_after_an_error() -> None:
    settings()[2].fp32_precision = "ieee"
    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert settings()[2].fp32_precision == "ieee"


def test_wide_products_can_be_nested() -> None:
    setting = settings()[2]
    setting.fp32_precision = "ieee"
    with wide_products(CPU, nn.Linear(600, 600)):
        inside = setting.fp32_precision
        with wide_products(CPU, nn.Linear(5, 5)):
            assert setting.fp32_precision == inside
        with wide_products(CPU, nn.Linear(600, 600)):
            assert setting.fp32_precision == inside
        assert setting.fp32_precision == inside
    assert setting.fp32_precision == "ieee"


@pytest.mark.parametrize(
    ("device", "net", "wide"),
    [
        ("cpu", nn.Linear(512, WIDE // 512), True),
        ("cpu", nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(1, WIDE)), True),
        ("cpu", nn.Linear(512, WIDE // 512 - 1), False),
        ("cpu", nn.Sequential(*(nn.Linear(300, 300) for _ in range(4))), False),
        ("cpu", nn.Conv2d(256, 256, 3), False),
        ("cpu", nn.BatchNorm1d(WIDE), False),
        ("cpu", nn.Identity(), False),
        ("cuda", nn.Linear(600, 600), False),
    ],
)
def test_only_nets_with_large_matrices_on_a_cpu_use_wide_products(
    device: str, net: nn.Module, wide: bool
) -> None:
    # If oneDNN rounds to bfloat16 on this processor, it must not be used.
    rounds = _onednn_rounds()
    settings()[2].fp32_precision = "ieee"
    with wide_products(torch.device(device), net):
        assert settings()[2].fp32_precision == ("bf16" if wide and not rounds else "ieee")


def _onednn_rounds() -> bool:
    settings()[2].fp32_precision = "bf16"
    return error(*multiply(600, 600)) > 1e-4


def net_of_maps() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    return nn.Sequential(*layers)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "maps": (partial(nn.Conv2d, 3, 8, 3), (2, 3, 9, 10)),
    "maps, in groups": (partial(nn.Conv2d, 8, 8, 3, groups=8), (2, 8, 9, 10)),
    "maps, transposed": (partial(nn.ConvTranspose2d, 4, 6, 3, stride=2), (2, 4, 5, 6)),
    "maps, to logits": (net_of_maps, (3, 3, 4, 6)),
    "vectors": (partial(nn.Linear, 7, 5), (2, 7)),
    "sequences": (partial(nn.Conv1d, 3, 8, 3), (2, 3, 9)),
    "volumes": (partial(nn.Conv3d, 3, 8, 3), (2, 3, 5, 6, 7)),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_place_does_not_change_outputs_and_gradients(
    kind: str, training: bool, dtype: torch.dtype, rounding: float
) -> None:
    torch.manual_seed(0)
    make, shape = NETS[kind]
    net = make().train(training).to(dtype)
    net.channels_last = True
    x = torch.randn(shape, dtype=dtype)
    found = []
    for _ in range(2):
        net.zero_grad()
        output = net(x)
        towards = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        (output * towards).sum().backward()
        found.append({"output": output, **{n: w.grad for n, w in net.named_parameters()}})
        assert place(net, CPU, Runtime()) is net
    # The tolerance is relative to the largest value, because some sums of products cancel to 0.
    largest = max(tensor.abs().max().item() for tensor in found[0].values())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=rounding * largest)


def test_only_kernels_of_maps_are_laid_out_channels_last() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "vectors": nn.Linear(7, 5),
            "sequences": nn.Conv1d(3, 8, 3),
            "maps": nn.Conv2d(3, 8, 3),
            "volumes": nn.Conv3d(3, 8, 3),
        }
    )
    net.channels_last = True
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    owners = {name: id(weight) for name, weight in net.named_parameters()}
    place(net, CPU, Runtime())
    for name, weight in net.named_parameters():
        assert torch.equal(weight, before[name])
        assert id(weight) == owners[name]
        assert weight.requires_grad
        assert weight.is_contiguous() == (name != "maps.weight")
    kernels = net["maps"].weight
    assert kernels.is_contiguous(memory_format=torch.channels_last)


def test_a_weight_that_two_layers_share_stays_shared() -> None:
    one, other = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    other.weight = one.weight
    place(nn.Sequential(one, other), CPU, Runtime())
    assert other.weight is one.weight


def test_place_does_not_unfreeze_weights() -> None:
    net = nn.Conv2d(3, 8, 3).requires_grad_(False)
    assert not any(weight.requires_grad for weight in place(net, CPU, Runtime()).parameters())


def test_a_net_without_channels_last_keeps_its_layout_and_may_view_its_maps() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, padding=1))

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return self.maps(maps).view(len(maps), -1)

    net = Viewing()
    place(net, CPU, Runtime())
    assert all(weight.is_contiguous() for weight in net.parameters())
    assert net(torch.randn(2, 1, 4, 4)).shape == (2, 128)


def test_all_threads_of_a_cpu_compute_with_zero_in_place_of_tiny_numbers() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush tiny numbers")
    code = (
        "import torch\n"
        "from mst_distill.parameters import Runtime\n"
        "from mst_distill.training.device import prepare\n"
        "prepare(torch.device('cpu'), Runtime())\n"
        "torch.set_num_threads(2)\n"
        "tiny = torch.ones(2**22, dtype=torch.int32).view(torch.float32)  # 1.4e-45\n"
        "assert not tiny.mul(1.5).view(torch.int32).any()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
