"""Weights from a file, frozen layers, and layers with a learning rate of their own."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.artifacts.provenance import plain_parameters, sha256_of
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.networks import build_member, build_members, check_definitions
from mst_distill.mst.pretrained import load_weights, set_rates
from mst_distill.mst.run_stages import run_stages
from mst_distill.mst.stage1_teachers import prepare_members
from mst_distill.parameters import Member, Members, TrainingRecipe
from mst_distill.plan import Plan
from mst_distill.training.loop import _Training
from mst_distill.training.optimisation import make_optimiser, rate_factor
from toy_runs import make_plan, make_run


class Net(nn.Module):
    """A trunk with batch norm, and a last layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 5))
        self.last = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.trunk(x))


def save(net: nn.Module, path: Path) -> Path:
    state = net.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classes", [3, 7])
def test_all_layers_are_loaded_and_the_last_if_it_fits(
    tmp_path: Path, suffix: str, classes: int
) -> None:
    source, net = Net(classes), Net(3)
    before = copy.deepcopy(net.state_dict())
    load_weights("image", net, save(source, tmp_path / f"net{suffix}"), Net(1003))
    for name, tensor in net.state_dict().items():
        fits = classes == 3 or not name.startswith("last")
        assert tensor.equal((source.state_dict() if fits else before)[name]), name


def test_a_file_without_the_last_layer_fits(tmp_path: Path) -> None:
    source, net = Net(3), Net(3)
    state = {name: of for name, of in source.state_dict().items() if not name.startswith("last")}
    torch.save(state, tmp_path / "trunk.pth")
    load_weights("image", net, tmp_path / "trunk.pth", Net(1003))
    assert net.trunk[0].weight.equal(source.trunk[0].weight)


BROKEN: dict[str, tuple[Any, str]] = {
    "shape": (
        {**Net(3).state_dict(), "trunk.0.weight": torch.zeros(5, 9)},
        r"1 of 11 weights are missing, have another shape or are not of the net, the first "
        r"'trunk\.0\.weight'\. All layers but the last must fit",
    ),
    "prefix": (
        {f"module.{name}": of for name, of in Net(3).state_dict().items()},
        r"19 of 22 weights .* the first 'trunk\.0\.weight', 'trunk\.0\.bias'",
    ),
    "nested": ({"state_dict": Net(3).state_dict()}, r"holds \['state_dict'\] and not a state dict"),
    "whole net": (Net(3), "holds no weights that can be read without executing code"),
    "beyond float32": (
        {**Net(3).state_dict(), "trunk.0.bias": torch.full((5,), 1e300, dtype=torch.float64)},
        r"'trunk\.0\.bias' holds .* numbers beyond torch\.float32",
    ),
    "quantised": (
        {**Net(3).state_dict(), "trunk.0.bias": torch.ones(5, dtype=torch.int8)},
        r"'trunk\.0\.bias' is of type torch\.int8 and must be of type torch\.float32",
    ),
    "not finite": (
        {**Net(3).state_dict(), "trunk.0.bias": torch.full((5,), torch.nan)},
        r"net\.pth does not fit its net: 'trunk\.0\.bias' holds NaN, infinity",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_does_not_fit_is_an_error_and_changes_nothing(
    tmp_path: Path, case: str
) -> None:
    content, message = BROKEN[case]
    torch.save(content, tmp_path / "net.pth")
    net = Net(3)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        load_weights("image", net, tmp_path / "net.pth", Net(1003))
    for name, tensor in net.state_dict().items():
        assert tensor.equal(before[name])


class Headed(nn.Module):
    """A stem with as many outputs as there are classes, and a head of some kind."""

    def __init__(self, classes: int, channels: int = 1, head: str = "linear") -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1)
        heads: dict[str, Any] = {
            "linear": lambda: nn.Linear(16, classes),
            "two": lambda: nn.ModuleList(nn.Linear(16, classes) for _ in range(2)),
            "transposed": lambda: nn.ConvTranspose2d(16, classes, 2),
            "weight norm": lambda: weight_norm(nn.Linear(16, classes)),
        }
        self.head = heads[head]()
        self.own_bias = nn.Parameter(torch.randn(classes))


@pytest.mark.parametrize("head", ["linear", "two", "transposed", "weight norm"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_all_weights_that_depend_on_the_classes_may_be_those_of_others(
    tmp_path: Path, head: str, suffix: str
) -> None:
    source, net = (Headed(classes, head=head) for classes in (7, 3))
    start = copy.deepcopy(net.state_dict())
    load_weights("image", net, save(source, tmp_path / f"net{suffix}"), Headed(1003, head=head))
    for key, tensor in net.state_dict().items():
        own = start[key].shape != source.state_dict()[key].shape
        assert tensor.equal((start if own else source.state_dict())[key]), key


def test_a_stem_with_as_many_outputs_as_classes_must_fit(tmp_path: Path) -> None:
    path = save(Headed(16, channels=3), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"1 of 5 .* the first 'stem\.weight'\."):
        load_weights("image", Headed(16), path, Headed(1016))


def test_a_last_layer_that_differs_in_its_inputs_too_must_fit(tmp_path: Path) -> None:
    state = {**Headed(3).state_dict(), "head.weight": torch.zeros(7, 8)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"1 of 5 .* the first 'head\.weight'\."):
        load_weights("image", Headed(3), tmp_path / "net.pth", Headed(1003))


def test_what_keeps_its_start_values_is_named(tmp_path: Path) -> None:
    path = save(Net(7), tmp_path / "net.pth")
    assert load_weights("image", Net(3), path, Net(1003)) == ["last.weight", "last.bias"]
    assert load_weights("image", Net(7), path, Net(1007)) == []


def test_the_log_of_a_run_names_what_keeps_its_start_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, plan = make_run()
    source = build_members(run, plan)["image"]
    state = {name: of for name, of in source.state_dict().items() if not name.startswith("last")}
    torch.save(state, tmp_path / "trunk.pth")
    run, plan = pretrained_run(image={"weights": str(tmp_path / "trunk.pth")})
    with caplog.at_level("INFO"):
        build_members(run, plan)
    assert caplog.messages == ["member 'image' keeps random start values of last.weight, last.bias"]


def test_counters_of_batch_norm_may_be_absent(tmp_path: Path) -> None:
    source, net = Net(3), Net(3)
    state = {key: of for key, of in source.state_dict().items() if "tracked" not in key}
    save_file(state, tmp_path / "net.safetensors")
    load_weights("image", net, tmp_path / "net.safetensors", Net(1003))
    assert net.trunk[2].weight.equal(source.trunk[2].weight)


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, classes)


def test_tied_weights_stand_once_in_a_file_and_have_the_smallest_rate(tmp_path: Path) -> None:
    source, net = Tied(3), Tied(3)
    save_model(source, str(tmp_path / "net.safetensors"))
    load_weights("image", net, tmp_path / "net.safetensors", Tied(1003))
    assert net.first.weight.equal(source.first.weight)
    assert net.first.weight is net.second.weight
    for layer in ("first", "second"):
        net = Tied(3)
        set_rates("image", net, member(learning_rate_scale={layer: 0.1}))
        groups = make_optimiser(TrainingRecipe(), net, 1.0).param_groups
        rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
        assert rates[id(net.first.weight)] == 0.1


class Extra(Net):
    """A net with a state that is not a tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 0}

    def set_extra_state(self, state: dict[str, int]) -> None: ...


def test_a_net_with_a_state_that_no_bundle_can_hold_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"member 'image' has '_extra_state' .* a dict and not a"):
        build_member("image", Member(type=f"{__name__}.Extra"), 3, 0)


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_counter_or_a_mask_may_have_another_type_or_infinity(tmp_path: Path) -> None:
    """``float()`` of a whole state dict makes counters floats; causal masks are infinite."""
    source, net, wider = Net(3), Net(3), Net(1003)
    for each in (source, net, wider):
        each.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    state = {key: of.double() for key, of in source.state_dict().items()}
    load_weights("image", net, saved(state, tmp_path / "net.pth"), wider)
    assert net.last.weight.equal(source.last.weight)
    state["trunk.1.num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"num_batches_tracked' is of type torch\.float32"):
        load_weights("image", net, saved(state, tmp_path / "half.pth"), wider)


@pytest.mark.parametrize("bias", [True, False])
def test_a_last_layer_is_loaded_whole_or_not_at_all(tmp_path: Path, bias: bool) -> None:
    state = Net(3).state_dict()
    weight = state.pop("last.weight")
    state["last.weight_v"] = weight
    if not bias:
        del state["last.bias"]
    with pytest.raises(ValueError, match=r"'last\.weight"):
        load_weights("image", Net(3), saved(state, tmp_path / "net.pth"), Net(1003))


def test_a_file_of_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    path = saved(nn.Linear(4, 7).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="2 of 2 weights"):
        load_weights("image", nn.Linear(4, 3), path, nn.Linear(4, 1003))


def test_tied_weights_that_differ_in_the_file_are_an_error(tmp_path: Path) -> None:
    state = Tied(3).state_dict()
    state["second.weight"] = state["second.weight"] + 1
    with pytest.raises(ValueError, match=r"is one weight with another in the net, and they differ"):
        load_weights("image", Tied(3), saved(state, tmp_path / "net.pth"), Tied(1003))


class Prefixed(nn.Module):
    """A trunk whose names have no prefix in published files, and a head of its own."""

    weights_prefix = "net."

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net, self.head = nn.Linear(4, 5), nn.Linear(5, classes)


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_prefix_is_put_in_front_of_names_that_need_it(tmp_path: Path, prefix: str) -> None:
    source, net = Prefixed(3), Prefixed(3)
    state = source.state_dict()
    if not prefix:
        state = {key.removeprefix("net."): of for key, of in state.items() if "net." in key}
    kept = load_weights("image", net, saved(state, tmp_path / "net.pth"), Prefixed(1003))
    assert net.net.weight.equal(source.net.weight)
    assert bool(kept) == (not prefix)


@pytest.mark.parametrize("entry", [{0: torch.ones(2)}, {"a": torch.eye(2).to_sparse()}])
def test_a_file_with_other_entries_is_no_state_dict(tmp_path: Path, entry: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="and not a state dict"):
        load_weights("image", Net(3), saved(entry, tmp_path / "net.pth"), Net(1003))


def test_a_net_with_an_old_weight_norm_is_loaded(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        nets = [nn.Sequential(nn.utils.weight_norm(nn.Linear(4, of))) for of in (7, 3, 1003)]
    path = saved(nn.Sequential(nn.Linear(4, 4)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit its net"):
        load_weights("image", nets[1], path, nets[2])
    with pytest.warns(FutureWarning):
        trunk = [
            nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Linear(5, of))
            for of in (7, 3, 1003)
        ]
    path = saved(trunk[0].state_dict(), tmp_path / "net.pth")
    assert load_weights("image", trunk[1], path, trunk[2]) == ["1.weight", "1.bias"]
    assert trunk[1][0].weight_v.equal(trunk[0][0].weight_v)


def test_lazy_weights_that_nothing_has_created_are_an_error(tmp_path: Path) -> None:
    path = saved(nn.Linear(4, 3).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="lazy weights that no forward pass has created"):
        load_weights("image", nn.LazyLinear(3), path, nn.LazyLinear(1003))


def test_a_missing_file_is_named_with_its_member(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights of member 'image': .*no\.pth does not"):
        load_weights("image", Net(3), tmp_path / "no.pth", Net(1003))


def member(**changes: Any) -> Member:
    return Member(type="a.B", **changes)


def test_frozen_layers_get_no_gradient_and_keep_their_running_statistics() -> None:
    net = Net(3)
    set_rates("image", net, member(learning_rate_scale={"trunk": 0, "trunk.2": 0.5}))
    for copied in (net, copy.deepcopy(net)):
        before = copy.deepcopy(copied.state_dict())
        copied.train()
        assert copied.last.training
        assert copied.trunk[2].training
        assert not copied.trunk[1].training
        optimiser = make_optimiser(TrainingRecipe.model_validate("strong"), copied, 0.1)
        copied(torch.randn(8, 4)).square().sum().backward()
        optimiser.step()
        for name, tensor in copied.state_dict().items():
            frozen = name.startswith(("trunk.0", "trunk.1"))
            assert tensor.equal(before[name]) == frozen, name


@pytest.mark.parametrize("preset", ["published", "strong"])
def test_a_scaled_layer_learns_at_its_rate(preset: str) -> None:
    recipe = TrainingRecipe.model_validate(preset)
    net = Net(3)
    set_rates("image", net, member(learning_rate_scale={"trunk": 0.1, "trunk.0": 0}))
    rates = {
        id(weight): group["lr"]
        for group in make_optimiser(recipe, net, 0.5).param_groups
        for weight in group["params"]
    }
    for name, weight in net.named_parameters():
        scale = 0 if name.startswith("trunk.0") else 0.1 if name.startswith("trunk") else 1
        assert rates.get(id(weight), 0) == scale * 0.5, name


def test_a_schedule_multiplies_with_the_scale() -> None:
    run, plan = pretrained_run(image={"learning_rate_scale": {"conv": 0.1}})
    run = dataclasses.replace(run, recipe=TrainingRecipe.model_validate("strong"))
    _, stage = prepare_members(run, plan)
    training = _Training(stage, run.runtime, None, run.recipe)
    training._set_rate()
    full = plan.teachers.learning_rate * rate_factor(run.recipe, 0, 2 * len(stage.train))
    rates = {group["lr"] for group in training._optimiser.param_groups}
    assert rates == {full, 0.1 * full}


def pretrained_run(**changes: dict[str, Any]) -> tuple[Any, Plan]:
    """A toy run whose members have further parameters, by modality."""
    run, plan = make_run()
    members = plan.members.model_dump()
    for name, keys in changes.items():
        members["modalities"][name] |= keys
    return run, plan.model_copy(update={"members": Members.model_validate(members)})


@pytest.mark.parametrize("target", ["image", "audio"])
def test_what_is_frozen_stays_through_all_stages(tmp_path: Path, target: str) -> None:
    _, plan = make_run()
    source = build_members(*make_run())["image"]
    with torch.no_grad():
        source.conv.weight.mul_(2)
    file = save(source, tmp_path / "image.safetensors")
    frozen = {"weights": str(file), "learning_rate_scale": {"conv": 0, "norm": 0}}
    run, plan = pretrained_run(image=frozen)
    run = dataclasses.replace(run, target=target)
    plan = plan.model_copy(update={"target": target})
    done = run_stages(run, plan)
    baselines, _ = train_baseline(run, plan)
    nets = [*done.student.students.values(), *baselines.values()]
    for net in nets if target == "image" else [done.members["image"]]:
        for name, tensor in source.state_dict().items():
            stays = name.startswith(("conv", "norm"))
            assert tensor.equal(net.state_dict()[name]) == stays, name


def test_a_bundle_that_is_loaded_is_frozen_again(tmp_path: Path) -> None:
    run, plan = pretrained_run(image={"learning_rate_scale": {"conv": 0, "norm": 0}})
    net = build_members(run, plan)["image"]
    save_bundle(ModelBundle.of(net, {"classes": 3}), tmp_path / "image.json")
    loaded = load_bundle(tmp_path / "image.json", plan.members.net_types()).net
    assert all(weight.requires_grad for weight in loaded.parameters())
    set_rates("image", loaded, plan.members.modalities["image"])
    assert not loaded.conv.weight.requires_grad
    assert not loaded.train().norm.training


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "layer": (
        {"learning_rate_scale": {"con": 0}},
        "layer of member 'image' 'con'.*did you mean 'conv'",
    ),
    "everything": (
        {"learning_rate_scale": dict.fromkeys(["conv", "norm", "second", "last"], 0)},
        "learning_rate_scale of member 'image' freezes all of its weights",
    ),
    "file": ({"weights": "no.pth"}, "weights of member 'image': .*does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parameters_are_found_before_samples_are_read(case: str) -> None:
    keys, message = WRONG[case]
    _, plan = pretrained_run(image=keys)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_definitions(plan.members, plan.masks)


def test_a_file_that_fits_is_accepted_without_samples(tmp_path: Path) -> None:
    source = build_members(*make_run())["image"]
    _, plan = pretrained_run(image={"weights": str(save(source, tmp_path / "image.pth"))})
    check_definitions(plan.members, plan.masks)


@pytest.mark.parametrize("head", ["two", "transposed", "weight norm"])
def test_a_file_for_other_classes_is_accepted_without_samples(tmp_path: Path, head: str) -> None:
    _, plan = make_run()
    file = save(Headed(7, head=head), tmp_path / "net.pth")
    keys = {"type": f"{__name__}.Headed", "arguments": {"head": head}, "weights": str(file)}
    members = plan.members.model_dump()
    members["modalities"]["image"] = keys
    check_definitions(Members.model_validate(members), plan.masks)


def test_parameters_of_an_origin_are_json() -> None:
    arguments = {"sizes": {1: 2, "a": (4, 5)}, "nested": [{"b": None}, 0.1]}
    found = plain_parameters({"member": Member(type="a.B", arguments=arguments)})
    assert found["member"]["arguments"] == {
        "sizes": {"1": 2, "a": [4, 5]},
        "nested": [{"b": None}, 0.1],
    }
    json.dumps(found, sort_keys=True)


def test_an_origin_has_the_digest_of_the_file_and_no_key_that_is_not_set(tmp_path: Path) -> None:
    plain = make_plan().members.modalities["image"]
    assert set(plain.model_dump()) == {"type", "arguments", "start", "masked_layers"}
    path = save(Net(3), tmp_path / "net.pth")
    origin = plain_parameters({"member": member(weights=str(path))})["member"]
    assert origin["weights"] == sha256_of(path)
    moved = path.rename(tmp_path / "other.pth")
    assert plain_parameters({"member": member(weights=str(moved))})["member"] == origin
    path_gone = rf"member\.weights: {moved} does not exist; .* must stay"
    moved.unlink()
    with pytest.raises(FileNotFoundError, match=path_gone):
        plain_parameters({"member": member(weights=str(moved))})
    dumped = member(weights="a.pth", learning_rate_scale={"b": 0}).model_dump()
    assert Member.model_validate(dumped) == member(weights="a.pth", learning_rate_scale={"b": 0})


def test_a_net_that_freezes_its_own_weights_keeps_them_frozen() -> None:
    net = Net(3)
    net.trunk[0].requires_grad_(False)
    set_rates("image", net, member())
    assert not net.trunk[0].weight.requires_grad
    trained = [
        of
        for group in make_optimiser(TrainingRecipe(), net, 1).param_groups
        for of in group["params"]
    ]
    assert len(trained) == 6


def test_a_layer_inside_a_frozen_one_follows_the_mode_of_the_net(tmp_path: Path) -> None:
    keys = member(learning_rate_scale={"trunk": 0, "trunk.2": 0.5})
    new, loaded = Net(3), Net(3).eval()
    for net in (new, loaded):
        set_rates("image", net, keys)
    torch.save(new, tmp_path / "net.pt")
    pickled = torch.load(tmp_path / "net.pt", weights_only=False)
    for net in (new, loaded, copy.deepcopy(new), pickled):
        for mode in (False, True, False):
            net.train(mode)
            assert net.training == net.last.training == net.trunk[2].training == mode
            assert not net.trunk.training
            assert not net.trunk[1].training
        assert net.trunk.eval() is net.trunk
    copied = copy.deepcopy(new).eval()
    new.train()
    assert not copied.trunk[2].training
