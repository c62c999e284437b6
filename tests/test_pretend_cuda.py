"""The pretence itself: what CUDA refuses is refused, what it waits for is counted."""

import copy
import pickle

import numpy as np
import pytest
import torch
from pretend_cuda import OnCuda, PretendCuda


@pytest.fixture
def gpu():
    with PretendCuda() as gpu:
        yield gpu


@pytest.fixture
def x(gpu):
    x = torch.arange(6.0).reshape(2, 3).to("cuda")
    gpu.reset()
    return x


def test_numbers_and_gradients_are_those_of_the_cpu(x):
    def loss(x, w):
        y = torch.nn.functional.linear(x, w).relu() * 2
        y[0, 1] += 1
        return y.square().sum()

    w = torch.tensor([[1.0, -2, 3], [0, 1, 1]], requires_grad=True)
    on_cuda = w.detach().to(x.device).requires_grad_()
    for found, expected in (
        (loss(x, on_cuda), loss(x.cpu(), w)),
        torch.autograd.grad(loss(x, on_cuda), on_cuda) + torch.autograd.grad(loss(x.cpu(), w), w),
    ):
        assert found.device == torch.device("cuda:0") and found.is_cuda and not found.is_cpu
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.zeros(2, 3, device="cuda"),
        lambda x: torch.tensor([1.0], device="cuda:0"),
        lambda x: torch.arange(3, device=x.device),
        lambda x: torch.ones(3).cuda(),
        lambda x: torch.ones(3).to(x),
        lambda x: x.new_zeros(3),
        lambda x: torch.zeros_like(x),
        lambda x: torch.nn.Linear(3, 2).to("cuda").weight,
        lambda x: torch.nn.Linear(3, 2, device="cuda").bias,
        lambda x: copy.deepcopy(x),
        lambda x: x[0],
        lambda x: x.double(),
    ],
)
def test_what_is_on_the_device(x, make):
    assert isinstance(make(x), OnCuda) and make(x).device.type == "cuda"


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: x + torch.ones(2, 3),
        lambda x: torch.ones(4, 2) @ x,
        lambda x: x.index_add_(0, torch.tensor([0]), torch.ones(1, 3, device="cuda")),
        lambda x: torch.ones(2)[torch.tensor([0], device="cuda")],
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: np.from_dlpack(x),
        lambda x: np.ones((2, 3)) + x,
        lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda x: x.normal_(generator=torch.Generator()),
        lambda x: torch.multinomial(x[1], 1, generator=torch.Generator()),
        lambda x: x.long() @ x.long().T,
        lambda x: pickle.dumps(x),
    ],
)
def test_what_is_refused(x, refused):
    with pytest.raises((RuntimeError, TypeError)):
        refused(x)


@pytest.mark.parametrize(
    "index",
    [
        [1, 0],
        (slice(None), [2, 0]),
        (slice(1, None), 2),
        np.array([1]),
        [True, False],
        ([0, 1], [2, 2]),
        (..., None, 1),
    ],
)
def test_indices(x, index):
    on_cpu = x.cpu()
    assert torch.equal(x[index].cpu(), on_cpu[index])
    x[index] = 7.0
    on_cpu[index] = 7.0
    assert torch.equal(x.cpu(), on_cpu)
    assert x.new_tensor([1.0, 2.0]).cpu().tolist() == [1.0, 2.0]


def test_operations_that_take_numbers_and_scalars_of_the_cpu(x):
    assert torch.equal((x * torch.tensor(2.0) + 1).cpu(), 2 * x.cpu() + 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0, 1]),
        lambda x: bool(x.any()),
        lambda x: int(x.argmax()),
        lambda x: range(5)[x[0, 1].long()],
        lambda x: x.cpu(),
        lambda x: x[0].tolist(),
        lambda x: torch.zeros(2, 3).copy_(x),
        lambda x: torch.ones(3).to("cuda"),
        lambda x: torch.tensor([1.0, 2.0], device="cuda"),
        lambda x: x.copy_(torch.ones(2, 3)),
        lambda x: x.nonzero(),
        lambda x: x[x > 2],
        lambda x: x.masked_select(x > 2),
        lambda x: x[[1, 0]],
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.allclose(x, x),
        lambda x: torch.bincount(x[0].long()),
        lambda x: x.repeat_interleave(x[0, :2].long(), dim=0),
        lambda x: torch.linalg.cholesky(torch.eye(3, device="cuda")),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_what_is_waited_for(gpu, x, wait):
    wait(x)
    assert gpu.waits.total() == 1
    assert "test_pretend_cuda.py:" in next(iter(gpu.waits))


@pytest.mark.parametrize(
    "go_on",
    [
        lambda x: torch.where(x > 2, x, 0).sum(dim=1),
        lambda x: x.masked_fill_(x > 2, 0),
        lambda x: x.topk(2).values.sort().indices.cumsum(0),
        lambda x: x.repeat_interleave(x[0, :2].long(), dim=0, output_size=1),
        lambda x: x.index_select(0, torch.arange(2, device="cuda")),
        lambda x: torch.ones(3).to("cuda", non_blocking=True),
        lambda x: torch.linalg.cholesky_ex(torch.eye(3, device="cuda")),
        lambda x: torch.nn.utils.clip_grads_with_norm_([x], 1.0, x.norm()),
        lambda x: (x.shape, len(x), x.dtype, x.device),
    ],
)
def test_what_is_not_waited_for(gpu, x, go_on):
    go_on(x)
    assert not gpu.waits


def test_views_and_allocations_are_no_launches(gpu, x):
    torch.empty(3, device="cuda"), x.T.reshape(-1)[None], x[:1, 1:], x.detach()
    assert gpu.launches == {"clone": 1}  # the transposed rows in one piece
    x.add_(1).sum()
    assert gpu.launches == {"clone": 1, "add_": 1, "sum": 1}


def test_nothing_of_it_stays():
    with PretendCuda():
        x = torch.ones(2, device="cuda")
    assert torch.cuda.device_count() == 0 or torch.cuda.get_device_name() != "pretended"
    with pytest.raises(RuntimeError):
        x + 1
