"""Predictions of the next token, against a loop over positions."""

import pytest
import torch

from skdict._core.language import next_token
from skdict._core.language.interventions import edit_rows
from skdict._core.language.next_token import (
    counted_predictions,
    kl_divergences,
    log_probabilities,
)

N_VOCABULARY = 7
CONTENT = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)
COUNTED = [(0, 1), (0, 2), (1, 0), (1, 3)]  # (sequence, position), both tokens being content


@pytest.fixture
def ids():
    torch.manual_seed(0)
    return torch.randint(N_VOCABULARY, CONTENT.shape)


def random_logits(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*CONTENT.shape, N_VOCABULARY, generator=generator)


@pytest.fixture(params=["one block", "a position per block"])
def block_size(request, monkeypatch):
    if request.param != "one block":
        monkeypatch.setattr(next_token, "LOGITS_BLOCK_SIZE", 1)


def test_counted_predictions():
    assert counted_predictions(CONTENT).nonzero().tolist() == [list(each) for each in COUNTED]


def test_log_probabilities(ids, block_size):
    logits = random_logits(0)
    found = log_probabilities(logits, ids, counted_predictions(CONTENT))
    expected = [logits[s, t].log_softmax(dim=0)[ids[s, t + 1]] for s, t in COUNTED]
    torch.testing.assert_close(found, torch.stack(expected))


def test_log_probabilities_of_half_precision_are_computed_in_single(ids):
    logits = random_logits(0).bfloat16()
    found = log_probabilities(logits, ids, counted_predictions(CONTENT))
    assert found.dtype == torch.float32
    expected = log_probabilities(logits.float(), ids, counted_predictions(CONTENT))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_log_probabilities_pass_gradients(ids, block_size):
    logits = random_logits(0).requires_grad_()
    log_probabilities(logits, ids, counted_predictions(CONTENT)).sum().backward()
    is_reached = logits.grad.abs().sum(dim=-1) > 0
    assert is_reached.nonzero().tolist() == [list(each) for each in COUNTED]


def test_nothing_counted(ids):
    nothing = torch.zeros_like(CONTENT)
    assert log_probabilities(random_logits(0), ids, nothing).shape == (0,)
    assert kl_divergences(random_logits(0), random_logits(1), nothing).shape == (0,)


def test_kl_divergences(block_size):
    clean, logits = random_logits(0), random_logits(1)
    clean[..., 3] = -torch.inf  # a token of probability 0
    found = kl_divergences(clean, logits, counted_predictions(CONTENT))
    expected = []
    for s, t in COUNTED:
        p, q = (each[s, t].double().softmax(dim=0) for each in (clean, logits))
        expected.append(sum(p[i] * (p[i] / q[i]).log() for i in range(N_VOCABULARY) if i != 3))
    torch.testing.assert_close(found, torch.stack(expected).float())


def test_edit_rows_changes_selected_rows_only():
    activations = random_logits(0)
    edited = edit_rows(activations, CONTENT, lambda rows: 2 * rows.double())
    assert edited.dtype == activations.dtype
    torch.testing.assert_close(edited[CONTENT], 2 * activations[CONTENT])
    torch.testing.assert_close(edited[~CONTENT], activations[~CONTENT], rtol=0, atol=0)
