"""The layers of a net and the cost of their masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.mst.layers import Layer, layer_table, layers_of
from mst_distill.mst.masks import MapMask, VectorMask
from mst_distill.parameters import Masks
from toys import make_samples

SETTINGS = Masks(epochs=1, batch_size=2, learning_rate=0.1, factor=2, heads=3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 12, 3)
        self.again = nn.ReLU()
        self.steps = nn.Flatten(2)
        self.pair = nn.LSTM(36, 4, batch_first=True)
        self.wide = nn.Linear(4, 8)
        self.narrow = nn.Linear(8, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.again(self.again(self.maps(image)))
        states, _ = self.pair(self.steps(maps))
        return self.narrow(self.wide(states[:, -1]))


def weights(net: nn.Module) -> int:
    return sum(of.numel() for of in net.parameters())


def test_each_layer_has_its_shape_and_the_cost_of_a_mask_or_the_reason_against_one() -> None:
    samples, _ = make_samples(4, {"image": (1, 8, 8), "other": (2,)})
    net = Net().train()
    found = {layer.path: layer for layer in layers_of("image", net, samples, SETTINGS)}
    assert net.training
    assert list(found) == ["maps", "again", "steps", "pair", "wide", "narrow"]
    assert found["maps"].shape == (12, 6, 6)
    assert found["maps"].mask_weights == weights(MapMask(12, 2, 3))
    assert found["wide"].mask_weights == weights(VectorMask(8, 2, 3))
    # Tokens of 8 // 6 * 3 = 3 numbers: embedding, attention (four times 3 x 3) and `weigh`.
    assert found["wide"].mask_weights == 8 * 24 + 24 + 4 * (9 + 3) + 3 + 1
    reasons = {path: layer.reason for path, layer in found.items() if layer.reason}
    assert reasons["again"] == "it is called 2 times"
    assert "a mask needs (B, F)" in reasons["steps"]
    assert "does not return one" in reasons["pair"]
    assert "too narrow" in reasons["narrow"]
    assert set(reasons) == {"again", "steps", "pair", "narrow"}
    assert torch.is_grad_enabled()


def test_the_table_marks_masked_layers_and_has_the_reason_instead_of_a_cost() -> None:
    layers = [Layer("conv", "Conv2d", (12, 6, 6), 1234, ""), Layer("l", "LSTM", (), None, "steps")]
    assert layer_table(layers, ["conv"]).splitlines() == [
        "  layer  class   shape       weights of a mask",
        "  conv   Conv2d  12 x 6 x 6  1,234 (masked)",
        "  l      LSTM                - steps",
    ]
