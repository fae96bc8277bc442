"""Members: start weights from the seed and the name, and checks before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mst_distill.mst.networks import (
    build_member,
    check_definitions,
    check_members,
    feature_shapes,
    forward,
    width_of,
)
from mst_distill.parameters import Masks, Member, Members
from toy_runs import KINDS, MASKS, make_run
from toys import make_samples


def member(kind: str, **more) -> Member:
    return Member(type=f"toy_nets.{kind}", **more)


def start_weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    return build_member(name, member("Image"), 3, seed).state_dict()


def test_start_weights_depend_on_seed_and_name_alone():
    torch.manual_seed(5)
    first = start_weights("image", 0)
    torch.manual_seed(6)
    again = start_weights("image", 0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    for other in (start_weights("image", 1), start_weights("photo", 0)):
        assert not torch.equal(first["conv.weight"], other["conv.weight"])


def test_building_a_member_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    start_weights("image", 0)
    assert torch.equal(torch.rand(1), expected)


def test_the_multimodal_member_is_called_by_keyword():
    run, plan = make_run()
    net = build_member("multimodal", plan.members.multimodal, 3, 0)
    inputs = {k: torch.from_numpy(v[:2]) for k, v in run.samples.modalities.items()}
    swapped = dict(reversed(inputs.items()))
    torch.testing.assert_close(forward(net, "multimodal", swapped), net(**inputs))


def test_shapes_of_features_are_found_by_a_trial_forward_pass():
    samples, _ = make_samples()
    net = build_member("image", member("Image"), 3, 0).train()
    before = net.norm.running_mean.clone()
    shapes = feature_shapes("image", net, ["conv", "second"], samples)
    assert shapes == {"conv": (2, 8, 8, 8), "second": (2, 12)}
    assert net.training
    assert torch.equal(net.norm.running_mean, before)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"type": "toy_nets.Imagee"}, ValueError, "member 'image'.*Imagee.*did you mean 'Image'"),
        ({"type": "toy_nots.Image"}, ValueError, "member 'image'.*toy_nots"),
        (
            {"type": "toy_runs.route"},
            TypeError,
            "member 'image'.*must be derived from torch.*Module",
        ),
        ({"type": "toy_nets.Image", "arguments": {"deep": 3}}, TypeError, "member 'image'.*deep"),
    ],
)
def test_a_type_that_is_not_a_net_is_an_error(spec, error, message):
    with pytest.raises(error, match=message):
        build_member("image", Member.model_validate(spec), 3, 0)


def check_raises(message: str, classes: int = 3, name: str = "image", masks=MASKS, **spec) -> None:
    samples, _ = make_samples()
    known = member(spec.pop("kind", "Image"), **spec)
    with pytest.raises(ValueError, match=message):
        check_members({name: build_member(name, known, classes, 0)}, {name: known}, masks, samples)


def test_the_error_for_an_unknown_layer_lists_the_layers():
    message = "unknown layer of member 'image' 'secnd'.*conv, norm.*did you mean 'second'"
    check_raises(message, masked_layers=["secnd"])


def test_logits_for_another_number_of_classes_are_an_error():
    check_raises(r"member 'image' outputs logits of shape \(2, 5\).*\(2, 3\)", classes=5)


def test_a_modality_that_the_samples_lack_is_an_error():
    message = "unknown modality 'images'; available: image, audio; did you mean 'image'"
    check_raises(message, name="images")


def test_a_net_that_fails_on_its_modality_is_an_error():
    check_raises(r"member 'audio' cannot be called with.*\(2, 13, 32\)", name="audio")


def test_a_masked_layer_that_outputs_no_tensor_is_an_error():
    samples, _ = make_samples(dense=(8, 8))
    known = member("Dense", masked_layers=["pool"])
    net = build_member("image", known, 3, 0)
    with pytest.raises(ValueError, match="layer 'pool' of member 'image' does not output"):
        check_members({"image": net}, {"image": known}, MASKS, samples)


@pytest.mark.parametrize("kind", KINDS)
def test_valid_members_pass_the_checks(kind):
    run, plan = make_run(kind)
    known = {**plan.members.modalities, "multimodal": plan.members.multimodal}
    nets = {name: build_member(name, of, 3, 0) for name, of in known.items()}
    check_members(nets, known, MASKS, run.samples)
    assert np.isfinite(run.samples.labels).all()


def test_a_layer_that_is_too_narrow_for_its_mask_is_an_error():
    masks = MASKS.model_copy(update={"factor": 5, "heads": 3})
    check_raises(
        "layer 'second' of member 'image'.*width 12.*at most 12",
        masks=masks,
        masked_layers=["second"],
    )


def test_the_error_for_layers_out_of_order_states_the_order():
    check_raises(
        r"in the order in which the net calls them: \['conv', 'second'\]",
        masked_layers=["second", "conv"],
    )


@pytest.mark.parametrize(("kind", "times"), [("LayerCalledTwice", 2), ("UnusedLayer", 0)])
def test_a_masked_layer_that_is_not_called_once_is_an_error(kind, times):
    check_raises(
        f"layer 'second' of member 'image' is called {times} times",
        kind=kind,
        masked_layers=["second"],
    )


@pytest.mark.parametrize(
    ("kind", "message"), [("TupleOutput", "outputs tuple"), ("RaisingForward", "ZeroDivisionError")]
)
def test_an_error_in_a_user_s_forward_names_the_member(kind, message):
    check_raises(f"member 'image'.*{message}", kind=kind)


@pytest.mark.parametrize("kind", ["OnePixel", "OnePixelAside"])
def test_a_map_of_one_pixel_can_be_masked(kind):
    samples, _ = make_samples()
    known = member(kind, masked_layers=["conv", "mix"])
    net = build_member("image", known, 3, 0)
    before = net.state_dict()
    check_members({"image": net}, {"image": known}, MASKS, samples)
    assert all(torch.equal(before[key], of) for key, of in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", r"mask on its layer 'ones', member 'image' cannot.*only ones are accepted"),
        ("nan", r"'image' .*layer 'ones' .*\(2, 3\), not all finite .*\(2, 3\) without"),
        ("shape", r"'image' .*layer 'ones' outputs logits of shape \(2, 2\) .*\(2, 3\) without"),
    ],
)
def test_a_net_that_fails_with_a_mask_is_an_error_before_training(how, message):
    masks = MASKS.model_copy(update={"kind": "fixed"})
    check_raises(
        message, kind="OnesOnly", arguments={"how": how}, masked_layers=["ones"], masks=masks
    )


def test_logits_that_are_not_finite_are_an_error_before_training():
    samples, _ = make_samples()
    known = member("Image")
    net = build_member("image", known, 3, 0)
    torch.nn.init.constant_(net.last.bias, float("inf"))
    with pytest.raises(ValueError, match="member 'image' outputs logits that are not finite"):
        check_members({"image": net}, {"image": known}, MASKS, samples)


XAVIER = "mst_distill.nets.nyudepthv2.small_xavier"


def build_with_start(name: str = "image", seed: int = 0, start: str | None = XAVIER):
    return build_member(name, member("Image", start=start), 3, seed).state_dict()


def test_start_sets_the_weights_of_a_new_net():
    plain, small = build_with_start(start=None), build_with_start()
    # One input and eight output channels, 3 x 3: 72 weights.
    expected = 0.02 * (2 / ((1 + 8) * 9)) ** 0.5
    assert small["conv.weight"].std().item() == pytest.approx(expected, rel=0.4)
    assert plain["conv.weight"].std() > 10 * expected
    assert not small["conv.bias"].any()
    assert plain["conv.bias"].any()
    for key in ("second.weight", "last.weight"):  # it changes only convolutions and batch norms
        assert torch.equal(plain[key], small[key])


def test_start_draws_with_the_seed_of_the_member():
    torch.manual_seed(5)
    first = build_with_start()
    torch.manual_seed(6)
    before = torch.get_rng_state()
    again = build_with_start()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    for other in (build_with_start(seed=1), build_with_start(name="photo")):
        assert not torch.equal(first["conv.weight"], other["conv.weight"])
        assert not torch.equal(first["norm.weight"], other["norm.weight"])


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (f"{XAVIER[:-1]}", "unknown function in .*'small_xavie'; .*did you mean 'small_xavier'"),
        ("toy_nots.start", "'toy_nots.start' cannot be imported"),
        ("toy_nets.Image", "unknown function in toy_nets 'Image'"),
    ],
)
def test_the_error_for_an_unknown_start_names_the_member(start, message):
    with pytest.raises(ValueError, match=f"^member 'image': .*{message}"):
        build_with_start(start=start)


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_an_error_in_start_names_the_member(tmp_path: Path, monkeypatch, error):
    module = f"starts_{error.__name__.lower()}"
    (tmp_path / f"{module}.py").write_text(
        f"def start(net):\n    raise {error.__name__}('no weights available')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=r"^member 'image': no weights available"):
        build_with_start(start=f"{module}.start")


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        (nn.Linear(4, 7), 7),
        (nn.Conv2d(3, 5, 3), 5),
        # What follows may change the number of features, as PixelUnshuffle and Flatten do.
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.PixelUnshuffle(2)), None),
        (nn.ReLU(), None),
    ],
)
def test_the_width_of_a_layer_is_known_where_its_class_states_it(layer, width):
    assert width_of(layer) == width


def test_a_mask_that_does_not_fit_is_an_error_without_samples():
    members = Members(
        multimodal=member("Image"),
        modalities={"image": member("Image"), "audio": member("Image", masked_layers=("conv",))},
    )
    narrow = build_member("audio", members.modalities["audio"], 2, 0).conv.out_channels
    kinds = {"epochs": 1, "batch_size": 1, "learning_rate": 1}
    check_definitions(members, Masks(**kinds, factor=narrow, heads=1))
    check_definitions(members, Masks(**kinds, factor=narrow + 1, heads=1, kind="fixed"))
    message = f"layer 'conv' of member 'audio'.*width {narrow}.*at most {narrow}"
    with pytest.raises(ValueError, match=message):
        check_definitions(members, Masks(**kinds, factor=narrow + 1, heads=1))
