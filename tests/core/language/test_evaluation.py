"""Evaluation mode: one thread at a time, and every module gets its own mode back."""

import copy
import threading

import pytest
import torch
from interrupt_testing import interrupted_at
from torch import nn

from skdict._core.language.evaluation import evaluation_mode

X = torch.arange(6.0).reshape(2, 3)


def test_evaluation_mode_restores_each_module():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[1].eval()  # frozen by hand, while the rest is being trained
    modes = [module.training for module in net.modules()]
    with pytest.raises(KeyError), evaluation_mode(net):
        assert not any(module.training for module in net.modules())
        raise KeyError
    assert [module.training for module in net.modules()] == modes == [True, True, False, True]


def test_evaluation_mode_is_for_one_thread_at_a_time():
    net = nn.Sequential(nn.Dropout())
    modes, entered = [], threading.Event()

    def work():
        with evaluation_mode(net):
            entered.set()
        modes.append(net.training)

    thread = threading.Thread(target=work)
    with evaluation_mode(net), evaluation_mode(net):  # nested in one thread
        thread.start()
        assert not entered.wait(0.1)
        assert not net.training
    thread.join(timeout=30)
    assert modes == [True]


def in_a_thread(function, timeout=30):
    """Call a function in a thread, and return whether it ended in time."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


def enter(model):
    with evaluation_mode(model):
        pass


def test_evaluation_mode_keeps_no_other_model_waiting():
    net, other = nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout())
    with evaluation_mode(net):
        assert in_a_thread(lambda: enter(other))
        assert not in_a_thread(lambda: enter(nn.Sequential(nn.ReLU(), net[0])), timeout=0.1)
        assert not net[0].training


def test_evaluation_mode_can_be_left_in_another_thread():
    """As happens when the garbage collector, or another thread, closes a generator."""
    net = nn.Sequential(nn.Dropout())
    block = evaluation_mode(net)
    assert in_a_thread(block.__enter__)
    assert not net.training
    block.__exit__(None, None, None)
    assert net.training and net[0].training
    assert in_a_thread(lambda: enter(net))


class Adapted(nn.Module):
    """Merges its adapter into a child's weight in evaluation mode, and takes it out again."""

    def __init__(self):
        super().__init__()
        self.base, self.adapter = nn.Linear(3, 3), nn.Parameter(torch.randn(3, 3))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.base.weight.data += -self.adapter.data if mode else self.adapter.data
            self.merged = not mode
        return self

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + x @ self.adapter.T


class Freezing(nn.Sequential):
    """Keeps its norm in evaluation mode, whatever mode is set."""

    def train(self, mode=True):
        super().train(mode)
        self[0].train(False)
        return self


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(Adapted(), nn.ReLU()).train(),
        lambda: nn.Sequential(Adapted(), nn.ReLU()).eval(),
        lambda: nn.Sequential(Adapted().eval(), nn.Dropout()),  # merged in a model that is trained
        lambda: nn.Sequential(Adapted(), Adapted().eval()).eval().append(Adapted()),
        lambda: Freezing(nn.BatchNorm1d(3), Adapted(), nn.Dropout()).train(),
        lambda: Freezing(nn.BatchNorm1d(3), Adapted().eval(), nn.Sequential(Adapted())),
    ],
)
def test_modules_with_a_train_of_their_own_come_back(make):
    torch.manual_seed(0)
    net = make()
    modes = [module.training for module in net.modules()]
    merged = [module.merged for module in net.modules() if isinstance(module, Adapted)]
    state = copy.deepcopy(net.state_dict())
    expected = copy.deepcopy(net).eval()(X)
    for _ in range(2):
        with evaluation_mode(net):
            torch.testing.assert_close(net(X), expected)
            assert all(module.merged for module in net.modules() if isinstance(module, Adapted))
    assert [module.training for module in net.modules()] == modes
    assert [m.merged for m in net.modules() if isinstance(m, Adapted)] == merged
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Dropout(), nn.ReLU()), Adapted])
def test_an_interrupt_at_any_point_leaves_the_modes(make):
    torch.manual_seed(0)
    net = make().train()
    state = copy.deepcopy(net.state_dict())

    def extract():
        with evaluation_mode(net):
            net(X)

    n = 1
    while interrupted_at(n, extract):
        assert all(module.training for module in net.modules()), n
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, state[name]), (n, name)
        n += 1
    assert n > 30
    assert in_a_thread(lambda: enter(net))
