"""A model's fingerprint covers what decides what the model computes, and nothing else."""

import copy
import dataclasses
import enum
import functools
import pickle
import threading
import types
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skdict._core.language.fingerprint import _WIDTHS, CannotDescribeError, _sums, fingerprint
from skdict.datasets import load_one_layer_transformer

GAIN = 1.0


def double(x):
    return 2 * x


def with_gain(x):
    return GAIN * x


class Mode(enum.Enum):
    ON = 1
    OFF = 2


@dataclasses.dataclass
class Config:
    gain: float = 1.0


class Slots:
    __slots__ = ("gain",)

    def __init__(self, gain):
        self.gain = gain


class Holder(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.linear, self.value = nn.Linear(2, 2), value


def holder(value):
    torch.manual_seed(0)
    return nn.Sequential(Holder(value))


def scaled_by(gain):
    return lambda x: gain * x


def nested(*tensors):
    return torch.nested.nested_tensor([torch.tensor(tensor) for tensor in tensors])


def quantised(scale):
    return torch.quantize_per_tensor(torch.eye(2), scale, 0, torch.qint8)


def per_channel(scale):
    scales, zeros = torch.tensor([0.1, scale]), torch.zeros(2, dtype=torch.int64)
    return torch.quantize_per_channel(torch.zeros(2, 2), scales, zeros, 0, torch.qint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (0.0, -0.0),
        (1, True),
        (None, "None"),
        ("a", b"a"),
        ([1, 2], [2, 1]),
        ([1, [2]], [1, 2]),
        ((1,), [1]),
        ({"a": 1}, {"a": 2}),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}),
        ({1, 2}, {1, 3}),
        (torch.float32, torch.bfloat16),
        (torch.nn.functional.relu, torch.nn.functional.gelu),
        (torch.relu, torch.tanh),
        (torch.ops.aten.relu.default, torch.ops.aten.tanh.default),
        (np.tanh, np.sin),
        (double, with_gain),
        (lambda x: 2 * x, lambda x: 3 * x),
        (scaled_by(2), scaled_by(3)),
        (scaled_by(torch.ones(2)), scaled_by(torch.zeros(2))),
        (functools.partial(double, x=1), functools.partial(double, x=2)),
        ("abc".upper, "abd".upper),
        (torch.ones(2).add, torch.zeros(2).add),
        (np.ones(2), np.array([1.0, 2.0])),
        (np.ones(2, np.float32), np.ones(2)),
        (np.array([1, "a"], object), np.array([1, "b"], object)),
        (np.float32(1), np.float32(2)),
        (torch.ones(2), torch.zeros(2)),
        (torch.ones(2), torch.ones(2, 1)),
        (torch.ones(1), torch.ones(1, dtype=torch.float64)),
        (torch.tensor(1 + 1j), torch.tensor(1 + 1j).conj()),
        ([torch.ones(1), torch.ones(2)], [torch.ones(1), torch.zeros(2)]),
        (torch.eye(2).to_sparse(), torch.diag(torch.tensor([1.0, 2.0])).to_sparse()),
        (torch.eye(2).to_sparse_csr(), torch.eye(2).flip(0).to_sparse_csr()),
        (torch.eye(2).to_sparse_csc(), torch.eye(2).flip(0).to_sparse_csc()),
        (torch.eye(2).to_sparse_bsr((1, 1)), torch.eye(2).flip(0).to_sparse_bsr((1, 1))),
        (nested([1.0], [2.0, 3.0]), nested([1.0, 2.0], [3.0])),
        (quantised(0.1), quantised(0.2)),
        (per_channel(0.1), per_channel(0.2)),
        (Config(), Config(2.0)),
        (SimpleNamespace(gain=1), SimpleNamespace(gain=2)),
        (SimpleNamespace(training=1), SimpleNamespace(training=2)),  # not the mode of a module
        (Slots(1), Slots(2)),
        (Mode.ON, Mode.OFF),
        (seeded(0), seeded(1)),
        (slice(1), slice(2)),
        ([nn.LeakyReLU(0.1)], [nn.LeakyReLU(0.2)]),  # a module that is not registered
        ({"layer": nn.Linear(2, 2)}, {"layer": nn.Linear(2, 2)}),
        (Config, SimpleNamespace),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0][:30],  # addresses differ between processes
)
def test_attributes_of_any_kind(one, other):
    assert fingerprint(holder(one)) == fingerprint(holder(one)) != fingerprint(holder(other))
    if not isinstance(one, torch.Tensor):  # some of which torch cannot copy
        assert fingerprint(copy.deepcopy(holder(one))) == fingerprint(holder(one))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60), nn.LeakyReLU(0.1), nn.BatchNorm1d(60))


def patch_forward(net):
    net[1].forward = lambda x: x


def share(net):
    net[0].weight.detach().numpy()[3, 5] += 1


CHANGES = {
    "in place": lambda net: net[0].weight.detach().add_(1),
    "data": lambda net: net[0].weight.data.add_(1),
    "one entry": lambda net: net[0].weight.data[7, 3].add_(1e-6),
    "sign": lambda net: net[0].weight.data.neg_(),
    "order": lambda net: net[0].weight.data.copy_(net[0].weight.data.flip(0)),
    "order of columns": lambda net: net[0].weight.data.copy_(net[0].weight.data.flip(1)),
    "exchange": lambda net: net[0].bias.data.copy_(net[0].bias.data.flip(0)),
    "shared memory": share,
    "new data": lambda net: setattr(net[0].weight, "data", torch.zeros(60, 40)),
    "new parameter": lambda net: setattr(net[0], "weight", nn.Parameter(torch.zeros(60, 40))),
    "no bias": lambda net: setattr(net[0], "bias", None),
    "buffer": lambda net: net[2].running_mean.add_(1),
    "attribute": lambda net: setattr(net[1], "negative_slope", 0.2),
    "another module": lambda net: net.append(nn.ReLU()),
    "names": lambda net: net.register_module("3", net._modules.pop("1")),
    "dtype": lambda net: net.bfloat16(),
    "forward": patch_forward,
    "hook": lambda net: net[1].register_forward_hook(lambda module, args, output: 2 * output),
    "pre-hook": lambda net: net[1].register_forward_pre_hook(lambda module, args: None),
    "class": lambda net: setattr(net[1], "__class__", nn.ReLU),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes(change):
    net = plain()
    before = fingerprint(net)
    assert fingerprint(copy.deepcopy(net)) == fingerprint(plain()) == before
    assert fingerprint(pickle.loads(pickle.dumps(net))) == before
    change(net)
    assert fingerprint(net) != before


def test_modes_and_runs_make_no_difference():
    net = plain()
    before = fingerprint(net)
    net.eval()(torch.ones(1, 40)).sum().backward()
    net.requires_grad_(False)
    handle = net[1].register_forward_hook(lambda *args: None)
    handle.remove()
    assert fingerprint(net) == before


def test_a_causal_model_of_transformers_has_the_same_in_another_process():
    net = load_one_layer_transformer().model
    config = net.generation_config
    expected = fingerprint(net)
    config._original_object_hash += 1  # Python's hash of strings, which each process salts anew
    assert fingerprint(net) == expected
    config.num_beams = 7
    assert fingerprint(net) != expected


def test_hooks_in_their_order():
    net = plain()
    hooks = [lambda module, args, output: output + 1, lambda module, args, output: 2 * output]
    seen = []
    for order in (hooks, hooks[::-1]):
        handles = [net.register_forward_hook(hook) for hook in order]
        seen += [fingerprint(net), fingerprint(net)]
        for handle in handles:
            handle.remove()
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_global_hooks():
    net = plain()
    before = fingerprint(net)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: output)
    assert fingerprint(net) != before
    handle.remove()
    assert fingerprint(net) == before


def test_settings_of_torch():
    net = plain()
    before = fingerprint(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = fingerprint(net)
    with torch.autocast("cpu", dtype=torch.float16):
        other = fingerprint(net)
    try:
        torch.set_default_dtype(torch.float64)
        assert fingerprint(net) != before
    finally:
        torch.set_default_dtype(torch.float32)
    assert len({before, half, other}) == 3
    assert fingerprint(net) == before


def test_code_of_ones_own(monkeypatch):
    """As when a class or function is edited between two sessions: the names stay the same."""

    def classes(body, **names):
        source = f"class Own(nn.Module):\n    gain = 1\n    def forward(self, x):\n        {body}"
        names |= {"nn": nn, "__name__": "own"}
        exec(compile(source, "own.py", "exec"), names)
        return fingerprint(nn.Sequential(names["Own"]()))

    assert classes("return x") == classes("return x") != classes("return 2 * x")
    assert classes("return x * GAIN", GAIN=1) != classes("return x * GAIN", GAIN=2)
    assert classes("return f(x)", f=scaled_by(1)) != classes("return f(x)", f=scaled_by(2))

    before = fingerprint(holder(with_gain))
    monkeypatch.setitem(globals(), "GAIN", 2.0)
    assert fingerprint(holder(with_gain)) != before

    settings = types.ModuleType("settings")
    settings.gain = 1
    by_settings = functools.partial(classes, "return x * settings.gain", settings=settings)
    before = by_settings()
    assert by_settings() == before
    settings.gain = 2
    assert by_settings() != before

    before = fingerprint(holder(1))
    monkeypatch.setattr(Holder, "factor", 3, raising=False)
    assert fingerprint(holder(1)) != before

    before = fingerprint(plain())
    monkeypatch.setattr(nn.LeakyReLU, "forward", lambda self, x: x)  # of an installed package
    assert fingerprint(plain()) != before


def test_things_that_refer_to_each_other():
    net = holder(None)
    net[0].value = {"me": net[0], "ref": weakref.ref(net), "list": []}
    net[0].value["list"].append(net[0].value)
    before = fingerprint(net)
    assert fingerprint(net) == before
    net[0].value["list"].append(1)
    assert fingerprint(net) != before


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (threading.Lock(), "0.value"),
        ({"a": [threading.Lock()]}, r"0.value.\[1\].\[0\]"),
        ((i for i in range(3)), "0.value"),
        (torch.empty(2, device="meta"), "0.value"),
        (Config(threading.Lock()), "0.value.gain"),
    ],
)
def test_what_cannot_be_described(value, name):
    with pytest.raises(CannotDescribeError, match=f"^{name}$"):
        fingerprint(holder(value))


def test_something_endless():
    value = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(CannotDescribeError):
        fingerprint(holder(value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_weights():
    def make(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LSTM(4, 4))
        kinds = {nn.Linear, nn.LSTM}
        return torch.ao.quantization.quantize_dynamic(net, kinds, dtype=torch.qint8)

    net = make(0)
    assert fingerprint(net) == fingerprint(make(0)) == fingerprint(copy.deepcopy(net))
    other = make(0)
    other[0] = make(1)[0]
    assert fingerprint(net) != fingerprint(other)
    other = make(0)
    other[2] = make(1)[2]
    assert fingerprint(net) != fingerprint(other)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_weights_that_accelerate_keeps_elsewhere(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    device = torch.device("cpu")

    def offloaded(net, folder):
        if where == "memory":
            return accelerate.cpu_offload(net, execution_device=device)
        return accelerate.disk_offload(net, str(folder), execution_device=device)

    net = plain().eval()
    expected = fingerprint(net)
    away = offloaded(copy.deepcopy(net), tmp_path / "a")
    assert away[0].weight.is_meta
    assert fingerprint(away) == expected
    away(torch.ones(1, 40))
    assert fingerprint(away) == expected
    net[0].weight.data[3, 5] += 1
    assert fingerprint(offloaded(net, tmp_path / "b")) != expected


@pytest.mark.slow
def test_adapters_of_peft():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"target_modules": ["0"], "init_lora_weights": False}
    net = peft.get_peft_model(plain(), peft.LoraConfig(**options))
    net.add_adapter("other", peft.LoraConfig(**options))
    states = [fingerprint(net)]
    net.set_adapter("other")
    states.append(fingerprint(net))
    with net.disable_adapter():
        states.append(fingerprint(net))
    assert fingerprint(net) == states[1]
    net.base_model.model[0].scaling["other"] *= 2
    states.append(fingerprint(net))
    net.set_adapter("default")
    assert fingerprint(net) != states[0]  # a factor of the adapter that is not active
    assert len(set(states)) == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_sums(dtype):
    """Sums over both axes of the words, by NumPy, and the rest as it is."""
    long, short = _WIDTHS
    n = 3 * long * 8 // dtype.itemsize + 5
    tensor = (100 * torch.randn(n, generator=seeded(0))).to(dtype)
    content = tensor.view(torch.uint8).numpy().tobytes()
    words = np.frombuffer(content[: len(content) // 8 * 8], np.int64)
    body = words[: 3 * long].reshape(3, long)
    again = np.concatenate([body.sum(0), words[3 * long :]])
    n_rows = len(again) // short
    rows = again[: n_rows * short].reshape(n_rows, short)
    expected = [
        content[len(content) // 8 * 8 :],
        body.sum(1).tobytes(),
        rows.sum(1).tobytes(),
        np.concatenate([rows.sum(0), again[n_rows * short :]]).tobytes(),
    ]
    assert list(_sums(tensor)) == expected
    apart = torch.zeros(n + 1, dtype=dtype)[1:].copy_(tensor)  # words that start anywhere
    assert list(_sums(apart)) == expected
    assert list(_sums(torch.stack([tensor, tensor], 1)[:, 0])) == expected
    assert list(_sums(-tensor)) != expected  # a sign is the highest bit
    assert list(_sums(tensor[:0])) == [b"", b""]


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.detach().add_(1),
        lambda weight: weight.data.add_(1e-6),
        lambda weight: weight.data[1000, 1].neg_(),
        lambda weight: weight.data.copy_(weight.data.flip(0)),
        lambda weight: weight.data.copy_(weight.data.flip(1)),
        lambda weight: weight.detach()[:2].copy_(weight.detach()[:2].flip(0)),
        lambda weight: weight.data[:2].copy_(weight.data[:2].flip(0)),  # same version
        lambda weight: weight.detach().numpy().__setitem__([3, 5], weight.detach()[[5, 3]]),
        lambda weight: weight.data[:, 1].neg_(),
        lambda weight: setattr(weight, "data", weight.data.clone().neg_()),
        lambda weight: weight.detach().numpy().__setitem__((7, 7), 3),
    ],
)
def test_large_tensors(write):
    net = nn.Linear(40, 2000)
    before = fingerprint(net)
    assert fingerprint(net) == fingerprint(copy.deepcopy(net)) == before
    write(net.weight)
    after = fingerprint(net)
    assert after == fingerprint(copy.deepcopy(net)) != before
    with torch.inference_mode():
        assert fingerprint(copy.deepcopy(net)) == after
