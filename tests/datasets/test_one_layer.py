import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skdict.datasets import load_one_layer_transformer, load_python_corpus

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bunch():
    return load_one_layer_transformer()


@pytest.mark.slow
def test_architecture(bunch):
    config = bunch.model.config
    assert (config.n_layer, config.n_embd, config.n_inner, config.n_head) == (1, 128, 512, 4)
    assert (config.n_positions, config.vocab_size) == (256, 4096)
    assert config.activation_function == "relu" and not config.tie_word_embeddings
    assert len(bunch.tokenizer) == 4096
    assert bunch.tokenizer.model_max_length == 256


def test_model_is_ready_to_use(bunch):
    assert type(bunch.model).__name__ == "GPT2LMHeadModel"
    assert not any(module.training for module in bunch.model.modules())
    tensors = [*bunch.model.parameters(), *bunch.model.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}
    assert {t.device.type for t in tensors} == {"cpu"}
    # stored in half precision
    for parameter in bunch.model.parameters():
        assert torch.equal(parameter, parameter.half().float())


def test_documented_modules(bunch):
    found = {}

    def keep(name):
        def hook(module, inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    names = ("transformer.h.0.mlp.act", "transformer.h.0")
    handles = [bunch.model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    inputs = bunch.tokenizer(["import os", "x"], padding=True, return_tensors="pt")
    with torch.no_grad():
        bunch.model(**inputs)
    for handle in handles:
        handle.remove()
    n_tokens = inputs["input_ids"].shape[1]
    assert found["transformer.h.0.mlp.act"].shape == (2, n_tokens, 512)
    assert (found["transformer.h.0.mlp.act"] >= 0).all()
    assert found["transformer.h.0"].shape == (2, n_tokens, 128)


@pytest.mark.parametrize("text", ["def f(x):\n    return x\n", "é 日本 😀\t\r\n\x0c", " a", ""])
def test_tokenizer_opens_with_bos_and_loses_nothing(bunch, text):
    encoded = bunch.tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    assert ids[0] == bunch.tokenizer.bos_token_id == bunch.tokenizer.pad_token_id
    assert bunch.tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text
    covered = {i for start, end in offsets for i in range(start, end)}
    assert covered == set(range(len(text)))


@pytest.mark.slow
def test_held_out_loss_is_the_recorded_one(bunch):
    """A sample of held-out windows, cut as in the training script."""
    texts = load_python_corpus(subset="test").data[::4]
    ids = np.concatenate([bunch.tokenizer(t, verbose=False)["input_ids"] for t in texts])
    rows = torch.tensor(ids[: len(ids) // 255 * 255].reshape(-1, 255))[::5]
    rows = torch.cat([torch.full((len(rows), 1), bunch.tokenizer.bos_token_id), rows], dim=1)
    with torch.no_grad():
        logits = bunch.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    # other files and another Python version move it; log(4096) = 8.3 is to know nothing
    assert float(loss) == pytest.approx(bunch.training["held_out_loss"], abs=0.5)


def test_training_record(bunch):
    record = bunch.training
    assert record["epochs"] == len(record["held_out_loss_by_epoch"])
    assert record["n_training_tokens"] > record["n_held_out_tokens"] > 0
    assert record["held_out_loss_by_epoch"][0] > record["held_out_loss"]


def test_each_call_returns_a_model_of_its_own(bunch):
    other = load_one_layer_transformer()
    with torch.no_grad():
        other.model.lm_head.weight.zero_()
    assert bunch.model.lm_head.weight.abs().max() > 0


def test_path_is_a_hugging_face_folder_of_less_than_5_megabytes(bunch):
    folder = Path(bunch.path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6


@pytest.mark.parametrize("shows_progress", [True, False])
def test_progress_bars_are_left_as_they_were(shows_progress):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shows_progress else logging.disable_progress_bar)()
    try:
        load_one_layer_transformer()
        assert logging.is_progress_bar_enabled() == shows_progress
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


@pytest.mark.slow
def test_loading_is_silent_offline_and_leaves_the_random_state_alone():
    code = """
import socket, sys, torch

def refuse(*args, **kwargs):
    sys.exit("something reached for the network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
torch.manual_seed(0)
state = torch.get_rng_state()
from skdict.datasets import load_one_layer_transformer
load_one_layer_transformer()
assert torch.equal(state, torch.get_rng_state())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_missing_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "skdict\[transformers\]"'):
        load_one_layer_transformer()
