"""Module hooks: the right tensor is read or replaced, and nothing is left behind."""

import copy
import warnings
from collections import OrderedDict, namedtuple

import pytest
import torch
from interrupt_testing import interrupted_at
from torch import nn

from skdict import ActivationExtractor
from skdict._core.language.hooks import (
    read_activation,
    record_activations,
    replace_activation,
    run_replaced,
)
from skdict._core.language.modules import find_module

Pair = namedtuple("Pair", ["hidden", "rest"])


class Wrap(nn.Module):
    """Doubles its input, counts its calls, and returns a container."""

    def __init__(self, container):
        super().__init__()
        self.container = container
        self.n_calls = 0

    def forward(self, hidden, note="none"):
        self.n_calls += 1
        assert note in ("none", "given")
        hidden = 2 * hidden
        return {
            "tensor": lambda: hidden,
            "tuple": lambda: ("no tensor", hidden, hidden + 100),
            "list": lambda: [None, hidden],
            "mapping": lambda: OrderedDict(state=hidden, other=hidden + 100),
            "namedtuple": lambda: Pair(hidden, "rest"),
            "nothing": lambda: "no tensor at all",
        }[self.container]()


class Net(nn.Module):
    def __init__(self, container="tensor", *, by_keyword=False):
        super().__init__()
        self.wrap = Wrap(container)
        self.behind = nn.Linear(3, 2)
        self.unused = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.by_keyword = by_keyword

    def forward(self, x):
        wrapped = self.wrap(hidden=x, note="given") if self.by_keyword else self.wrap(x)
        self.passed_on = wrapped
        return self.behind(first_tensor(wrapped))


def first_tensor(value):
    """Find the first tensor in another way."""
    if isinstance(value, torch.Tensor):
        return value
    values = value.values() if isinstance(value, dict) else value
    return next(x for x in values if isinstance(x, torch.Tensor))


CONTAINERS = ["tensor", "tuple", "list", "mapping", "namedtuple"]
X = torch.arange(6.0).reshape(2, 3)


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
        )
        for hook in hooks.values()
    ]


def test_find_module():
    net = Net()
    assert find_module(net, "wrap") is net.wrap
    assert find_module(net, "unused.1") is net.unused[1]
    assert find_module(net, "") is net


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("rwap", "'wrap'"),
        ("unused.7", "'unused.1'"),
        ("1", "'unused.1'"),  # the end of a path
        ("behind.weight", "'behind'"),  # a parameter is not a module
    ],
)
def test_find_module_lists_nearest_names(layer, expected):
    with pytest.raises(ValueError, match=rf"layer='{layer}' names no submodule of Net") as error:
        find_module(Net(), layer)
    assert expected in str(error.value)


@pytest.mark.parametrize("container", CONTAINERS)
def test_read_output(container):
    net = Net(container)
    read = read_activation(net, "wrap", lambda: net(X))
    torch.testing.assert_close(read, 2 * X)
    assert hooks_of(net) == []


@pytest.mark.parametrize("by_keyword", [False, True])
def test_read_input(by_keyword):
    net = Net(by_keyword=by_keyword)
    torch.testing.assert_close(read_activation(net, "wrap", lambda: net(X), side="input"), X)
    assert net.wrap.n_calls == 0  # stopped before the layer itself
    assert hooks_of(net) == []


def test_read_stops_there():
    net = Net()
    calls = []
    net.behind.register_forward_pre_hook(lambda *args: calls.append(args))
    read_activation(net, "wrap", lambda: net(X))
    assert calls == []
    net(X)
    assert len(calls) == 1


def test_read_is_not_stopped_by_the_models_handlers():
    class Careful(Net):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                return x

    net = Careful()
    torch.testing.assert_close(read_activation(net, "wrap", lambda: net(X)), 2 * X)


def test_record_counts_calls():
    block = nn.Linear(3, 3)
    net = nn.Sequential(OrderedDict(a=block, b=nn.ReLU(), c=block))
    calls = record_activations(net, "a", lambda: net(X))
    assert len(calls) == 2
    torch.testing.assert_close(calls[1], block(block(X).relu()))
    assert hooks_of(net) == []


class TestCalls:
    """A layer that a forward pass calls three times."""

    @pytest.fixture
    def block(self):
        return nn.Linear(3, 3)

    @pytest.fixture
    def net(self, block):
        return nn.Sequential(OrderedDict(a=block, b=nn.ReLU(), c=block, d=nn.Tanh(), e=block))

    @pytest.mark.parametrize("call", range(-3, 3))
    @pytest.mark.parametrize("side", ["input", "output"])
    def test_read(self, call, side, net, block):
        given = [X]
        given.append(block(X).relu())
        given.append(block(given[1]).tanh())
        expected = given[call] if side == "input" else block(given[call])
        n_calls = []
        block.register_forward_pre_hook(lambda *args: n_calls.append(args))
        found = read_activation(net, "a", lambda: net(X), side=side, call=call)
        torch.testing.assert_close(found, expected)
        assert len(n_calls) == (3 if call < 0 else call + 1)

    @pytest.mark.parametrize("call", [3, -4, 10**30, -(10**12)])
    def test_calls_that_there_are_not(self, call, net):
        with pytest.raises(
            ValueError, match=rf"call={call}, but layer='a' is called 3 times.* -3"
        ):
            read_activation(net, "a", lambda: net(X), call=call)

    @pytest.mark.parametrize("call", range(3))
    def test_replace(self, call, net, block):
        def by_hand(x):
            for k, between in enumerate((torch.relu, torch.tanh, lambda x: x)):
                x = block(x) + (k == call)
                x = between(x)
            return x

        expected = by_hand(X)
        with replace_activation(net, "a", lambda x: x + 1, call=call):
            for _ in range(2):  # calls count from 0 in each pass
                torch.testing.assert_close(net(X), expected)
        found = run_replaced(net, "a", lambda x: x + 1, lambda: net(X), call=call)
        torch.testing.assert_close(found, expected)

    def test_nothing_to_replace(self, net):
        with (
            pytest.warns(UserWarning, match=r"is called 3 times .* no call=3 and nothing was"),
            replace_activation(net, "a", lambda x: x + 1, call=3),
        ):
            net(X)
        with pytest.raises(ValueError, match=r"call=3, but layer='a' is called 3 times"):
            run_replaced(net, "a", lambda x: x, lambda: net(X), call=3)

    def test_a_part_of_the_model(self, net):
        model = nn.Sequential(net)
        with (
            replace_activation(model, "0.a", lambda x: x + 1, call=1),
            pytest.raises(ValueError, match=r"only a part of it is run. Run the model"),
        ):
            net(X)


def test_record_keeps_what_came_before_a_failure():
    net = Net()
    net.behind = nn.Linear(7, 2)  # does not fit
    assert len(record_activations(net, "wrap", lambda: net(X))) == 1
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        record_activations(net, "behind", lambda: net(X))
    assert hooks_of(net) == []


@pytest.mark.parametrize("function", [read_activation, record_activations])
def test_layer_that_is_never_called(function):
    net = Net()
    with pytest.raises(ValueError, match=r"'unused' \(ModuleList\) is never called.*unused\.0"):
        function(net, "unused", lambda: net(X))
    assert hooks_of(net) == []


@pytest.mark.parametrize("function", [read_activation, record_activations])
def test_layer_without_tensor(function):
    net = Net("nothing")
    with pytest.raises(ValueError, match="'wrap' is a str without a tensor"):
        function(net, "wrap", lambda: net(X))
    assert hooks_of(net) == []


def test_unknown_side():
    net = Net()
    with pytest.raises(ValueError, match="side='left' is neither"):
        read_activation(net, "wrap", lambda: net(X), side="left")


@pytest.mark.parametrize("container", CONTAINERS)
def test_replace_output(container):
    net = Net(container)
    before = net(X)
    original = copy.copy(net.passed_on)
    with replace_activation(net, "wrap", lambda x: x.double() + 1):
        replaced = net(X)
        passed_on = net.passed_on
    torch.testing.assert_close(replaced, net.behind(2 * X + 1))
    assert type(passed_on) is type(original)
    if container == "tuple":
        assert passed_on[0] == "no tensor"
        torch.testing.assert_close(passed_on[2], original[2])
    if container == "mapping":
        torch.testing.assert_close(passed_on["other"], original["other"])
    torch.testing.assert_close(net(X), before)
    assert hooks_of(net) == []


@pytest.mark.parametrize("by_keyword", [False, True])
def test_replace_input(by_keyword):
    net = Net(by_keyword=by_keyword)
    with replace_activation(net, "wrap", torch.zeros_like, side="input"):
        torch.testing.assert_close(net(X), net.behind(torch.zeros(2, 3)))
    torch.testing.assert_close(net(X), net.behind(2 * X))


def test_replace_of_a_transformers_output():
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class Inner(nn.Module):
        def forward(self, x):
            return outputs.BaseModelOutput(last_hidden_state=x, attentions=(x,))

    net = nn.Sequential(Inner())
    with replace_activation(net, "0", torch.zeros_like):
        output = net(X)
    assert type(output) is outputs.BaseModelOutput
    torch.testing.assert_close(output.last_hidden_state, torch.zeros(2, 3))
    torch.testing.assert_close(output.attentions[0], X)


def test_replace_passes_gradients():
    net = Net()
    x = X.clone().requires_grad_()
    with replace_activation(net, "wrap", lambda h: 3 * h):
        net(x).sum().backward()
    torch.testing.assert_close(x.grad, 6 * net.behind.weight.sum(0).expand(2, 3))


def test_replace_of_another_shape():
    net = Net()
    with (
        pytest.raises(ValueError, match=r"has shape \(2, 3\), but function returned.*\(1, 3\)"),
        replace_activation(net, "wrap", lambda x: x[:1]),
    ):
        net(X)
    assert hooks_of(net) == []


def test_hooks_are_removed_on_any_exception():
    net = Net()

    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replace_activation(net, "wrap", interrupt):
        net(X)
    with pytest.raises(RuntimeError):
        read_activation(net, "behind", lambda: net(torch.ones(2, 7)))
    assert hooks_of(net) == []


def test_run_replaced():
    net = Net()
    found = run_replaced(net, "wrap", lambda x: x + 1, lambda: net(X))
    torch.testing.assert_close(found, net.behind(2 * X + 1))
    twice = nn.Linear(3, 3)
    for layers, message in (
        ({"a": twice, "b": nn.ReLU(), "c": twice}, "'a' is called more than once in a forward"),
        ({"a": nn.ModuleList([nn.ReLU()])}, "'a' .ModuleList. is never called.*'a.0'"),
    ):
        net = nn.Sequential(OrderedDict(layers))
        forward = (lambda net=net: net(X)) if "b" in layers else (lambda: None)
        with pytest.raises(ValueError, match=message):
            run_replaced(net, "a", lambda x: x, forward)
        assert hooks_of(net) == []


class TestWithoutEffect:
    """There is a warning or an error for a layer that is never called."""

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return nn.functional.linear(x, self.layer.weight, self.layer.bias)

    @pytest.mark.parametrize(
        ("model", "layer", "inputs"),
        [
            (nn.MultiheadAttention(4, 2, batch_first=True), "out_proj", [torch.ones(1, 3, 4)] * 3),
            (Functional(), "layer", [X]),
            (torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.ReLU()))), "0", [X]),
            (torch.export.export(nn.Sequential(nn.Linear(3, 2)), (X,)).module(), "0", [X]),
        ],
        ids=["attention", "functional", "fx", "export"],
    )
    def test_replaced(self, model, layer, inputs):
        before = hooks_of(model)  # an exported one has its own
        with (
            pytest.warns(UserWarning, match=f"{layer}'.* was never called in the block") as found,
            replace_activation(model, layer, torch.zeros_like),
        ):
            model(*inputs)
        assert len(found) == 1
        with pytest.raises(ValueError, match="is never called in the model's forward pass"):
            run_replaced(model, layer, torch.zeros_like, lambda: model(*inputs))
        with pytest.raises(ValueError, match="is never called in the model's forward pass"):
            read_activation(model, layer, lambda: model(*inputs))
        assert hooks_of(model) == before

    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    @pytest.mark.parametrize("way", ["script", "trace"])
    def test_torchscript(self, way):
        """Its hooks are called after tracing, where Python calls it, and nowhere else."""
        net = nn.Sequential(nn.Linear(3, 2))
        net = torch.jit.script(net) if way == "script" else torch.jit.trace(net, X)
        outer = nn.Sequential(net)
        places = {"inside": [(net, "0"), (outer, "0.0")], "itself": [(net, ""), (outer, "0")]}
        if way == "trace":
            for model, layer in places.pop("itself"):
                found = read_activation(model, layer, lambda model=model: model(X))
                torch.testing.assert_close(found, net(X))
        for model, layer in (place for some in places.values() for place in some):
            with pytest.raises(ValueError, match=f"layer='{layer}' is of a .*TorchScript"):
                read_activation(model, layer, lambda model=model: model(X))
            with pytest.raises(ValueError, match=f"layer='{layer}' is of a .*TorchScript"):
                ActivationExtractor(model, layer, tokenizer=None).transform(X)

    def test_a_layer_that_some_passes_skip(self):
        """For instance an expert without tokens: if one pass calls it, there is no warning."""

        class Skips(nn.Module):
            def __init__(self):
                super().__init__()
                self.expert = nn.Identity()

            def forward(self, x):
                return self.expert(x) if x.sum() > 0 else x

        net = Skips()
        with warnings.catch_warnings(), replace_activation(net, "expert", lambda x: 2 * x):
            warnings.simplefilter("error")
            torch.testing.assert_close(net(-X), -X)
            torch.testing.assert_close(net(X), 2 * X)

    def test_an_error_is_enough(self):
        with (
            warnings.catch_warnings(),
            pytest.raises(ZeroDivisionError),
            replace_activation(Net(), "wrap", torch.zeros_like),
        ):
            warnings.simplefilter("error")
            raise ZeroDivisionError


def compiled_before(net):
    """Ways to call a compiled model, all of which have run without hooks."""
    function = torch.compile(lambda x: net(x), backend="eager")
    method = copy.deepcopy(net)
    method.compile(backend="eager")
    part = copy.deepcopy(net)
    part[0] = torch.compile(part[0], backend="eager")
    forward = copy.deepcopy(net)
    forward.forward = torch.compile(forward.forward, backend="eager")
    wrapper = torch.compile(copy.deepcopy(net), backend="eager")
    ways = {
        "function": (net, "0.1", function),
        "method": (method, "0.1", method),
        "part": (part, "0._orig_mod.1", part),
        "forward": (forward, "0.1", forward),
        "wrapper": (wrapper, "_orig_mod.0.1", wrapper),
        "wrapper, path without it": (wrapper, "0.1", wrapper),
    }
    for _, _, call in ways.values():
        call(X)
    return ways


class TestCompiled:
    WAYS = ("function", "method", "part", "forward", "wrapper", "wrapper, path without it")

    @pytest.fixture
    def net(self):
        torch._dynamo.reset()
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        return nn.Sequential(inner, nn.Linear(4, 2)).requires_grad_(False)

    @pytest.mark.slow
    @pytest.mark.parametrize("way", WAYS)
    def test_read_and_replaced(self, net, way):
        model, layer, call = compiled_before(net)[way]
        torch.testing.assert_close(read_activation(model, layer, lambda: call(X)), net[0](X))
        with replace_activation(model, layer, torch.zeros_like):
            torch.testing.assert_close(call(X), net[1].bias.expand(2, 2))
        torch.testing.assert_close(call(X), net(X))

    def test_compiled_in_the_block(self, net):
        """Code that is compiled in the block does not keep the intervention."""
        with replace_activation(net, "0.1", torch.zeros_like):
            compiled = torch.compile(net, backend="eager")
            torch.testing.assert_close(compiled(X), net[1].bias.expand(2, 2))
        torch.testing.assert_close(compiled(X), net(X))

    def test_compiles_again_when_the_last_block_is_left(self, net):
        """Blocks of two threads need not be nested."""
        compiled = torch.compile(net, backend="eager")
        compiled(X)
        first, second = (replace_activation(net, "0.1", torch.zeros_like) for _ in range(2))
        first.__enter__()
        second.__enter__()
        compiled(X)
        first.__exit__(None, None, None)
        torch.testing.assert_close(compiled(X), net[1].bias.expand(2, 2))
        second.__exit__(None, None, None)
        assert torch._dynamo.eval_frame._stance.stance == "default"
        torch.testing.assert_close(compiled(X), net(X))


class PaddedEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x, padding):
        return self.encoder(x, src_key_padding_mask=padding)


class TestNestedTensors:
    @pytest.fixture
    def net(self):
        torch.manual_seed(0)
        return PaddedEncoder().eval()

    inputs = (
        torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[False] * 4, [False, False, True, True]]),
    )

    @pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1.linear1"])
    def test_layers_of_a_transformer_encoder(self, net, layer):
        expected = []
        handle = net.get_submodule(layer).register_forward_hook(
            lambda module, args, output: expected.append(output.detach())
        )
        net(*self.inputs)  # with gradients nothing is packed
        handle.remove()
        content = ~self.inputs[1]
        with torch.no_grad():
            found = read_activation(net, layer, lambda: net(*self.inputs))
            torch.testing.assert_close(found[content], expected[0][content])
            with replace_activation(net, layer, lambda x: x + 1):
                replaced = net(*self.inputs)
                assert not net.encoder.use_nested_tensor
                with replace_activation(net, layer, lambda x: x - 1):
                    torch.testing.assert_close(
                        net(*self.inputs)[content], net(*self.inputs)[content]
                    )
                assert not net.encoder.use_nested_tensor
            assert net.encoder.use_nested_tensor
        handle = net.get_submodule(layer).register_forward_hook(lambda *args: args[2] + 1)
        torch.testing.assert_close(replaced[content], net(*self.inputs).detach()[content])
        handle.remove()

    def test_the_encoder_itself_stays_as_it_is(self, net):
        with torch.no_grad():
            found = read_activation(net, "encoder", lambda: net(*self.inputs))
            torch.testing.assert_close(found, net(*self.inputs))
        assert (found[1, 2:] == 0).all()  # as from packed sequences

    def test_a_nested_tensor_is_refused(self):
        net = nn.Sequential(nn.Identity())
        packed = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
        with pytest.raises(ValueError, match="output of layer='0' is a nested tensor"):
            read_activation(net, "0", lambda: net(packed))


def test_a_copy_made_in_the_block_is_not_changed_after_it():
    net = Net()
    with replace_activation(net, "wrap", torch.zeros_like):
        twin = copy.deepcopy(net)
        torch.testing.assert_close(twin(X), net(X))
    torch.testing.assert_close(twin(X), net(X))
    torch.testing.assert_close(net(X), net.behind(2 * X))


def state_of(model):
    return (
        hooks_of(model),
        model.encoder.use_nested_tensor,
        torch._dynamo.eval_frame._stance.stance,
        torch.is_grad_enabled(),
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", ["read", "replace"])
def test_interrupts_at_all_function_entries(what):
    """Also at the entry of the functions that clean up."""
    import torch._dynamo  # compiled code has to be turned off as well

    net = PaddedEncoder().eval().requires_grad_(False)
    layer = "encoder.layers.0.linear1"

    part, x = net.get_submodule(layer), torch.ones(1, 8)  # the rest of the model takes long to run

    def call():
        if what == "read":
            read_activation(net, layer, lambda: part(x))
        else:
            with replace_activation(net, layer, lambda x: x, on_call=lambda *call: None):
                part(x)

    before, n = state_of(net), 1
    assert before[0] == []
    while interrupted_at(n, call):
        assert state_of(net) == before, n
        n += 1
    assert n > 50
