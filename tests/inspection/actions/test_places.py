"""Where interventions act: a Pipeline, a Site or a model says the same; nothing stays behind."""

import copy

import numpy as np
import pytest
import sklearn
import torch
from interrupt_testing import interrupted_at
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor, Site
from skdict.inspection import ablate, replace_activations, steer

LAYER = "transformer.h.0.mlp.act"


@pytest.fixture
def ids(language):
    return language.tokenizer("def area(self):\n    return", return_tensors="pt").input_ids


@pytest.fixture
def j(language, ids, dictionary):
    """A feature that is active on these tokens."""
    x = Site(language.model, LAYER).read(ids)[0]
    return int((dictionary.transform(x.numpy()) > 0).sum(axis=0).argmax())


def logits_in(block, model, ids):
    with torch.no_grad(), block as given:
        assert given is model
        return model(ids).logits


@pytest.mark.parametrize("layer", [LAYER, "layers.0.mlp.act"])
def test_all_ways_to_say_where(language, dictionary, ids, j, layer):
    model, tokenizer = language.model, language.tokenizer
    extractor = ActivationExtractor(model, layer, tokenizer=tokenizer)
    pipeline, site = make_pipeline(extractor, dictionary), extractor.site()
    for function, features, options in (
        (steer, (j,), {"strength": 3.0}),
        (steer, (j,), {"clamp": 3.0}),
        (ablate, (j,), {}),
        (replace_activations, (), {}),
        (replace_activations, (), {"scale": {j: 2.0}, "keep_error": True}),
    ):
        expected = logits_in(
            function(model, LAYER, dictionary, *features, tokenizer=tokenizer, **options),
            model,
            ids,
        )
        named = {"features": j} if features else {}
        for block in (
            function(pipeline, *features, **options),
            function(pipeline, **named, **options),
            function(site, dictionary, *features, **options),
            function(site, dictionary=dictionary, **named, **options),
            function(Site(model, layer), dictionary, *features, **options),
            function(model, layer, dictionary, **named, **options),
        ):
            np.testing.assert_allclose(logits_in(block, model, ids), expected, atol=1e-5)
        assert not torch.equal(expected, model(ids).logits)


def test_side_and_axis_are_those_of_the_extractor(image_model):
    X = np.random.default_rng(0).random((4, 1, 3, 3)).astype(np.float32)
    extractor = ActivationExtractor(image_model, "1", side="input", tokenizer=None)
    rows = extractor.fit_transform(X)
    sae = SparseAutoencoderDictionary(4, max_iter=1, random_state=0).fit(rows)
    with torch.no_grad(), steer(make_pipeline(extractor, sae), 1, strength=2.0):
        found = image_model(torch.from_numpy(X))
    change = 2 * torch.from_numpy(sae.components_[1])[:, None, None]
    expected = image_model[1:](image_model[0](torch.from_numpy(X)) + change)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


@pytest.mark.parametrize("keep_error", [True, False])
def test_ablation(language, dictionary, ids, j, keep_error):
    model = language.model
    k = (j + 1) % 256
    for features in (j, [j, k], np.array([k, j]), torch.tensor([j])):
        scale = {int(i): 0.0 for i in np.atleast_1d(np.asarray(features))}
        options = {"scale": scale, "keep_error": keep_error}
        expected = logits_in(replace_activations(model, LAYER, dictionary, **options), model, ids)
        block = ablate(model, LAYER, dictionary, features, keep_error=keep_error)
        assert torch.equal(logits_in(block, model, ids), expected)
    if keep_error:  # as a code of 0
        clamped = logits_in(steer(model, LAYER, dictionary, j, clamp=0), model, ids)
        alone = logits_in(ablate(model, LAYER, dictionary, j), model, ids)
        np.testing.assert_allclose(clamped, alone, atol=1e-5)


def test_ablation_with_a_step_before_the_dictionary(language, activations, ids):
    """Through NumPy, and still the feature's part alone."""
    model = language.model
    sae = SparseAutoencoderDictionary(32, max_iter=1, random_state=0)
    piped = make_pipeline(StandardScaler(), sae).fit(activations[:500])
    extractor = ActivationExtractor(model, LAYER, tokenizer=language.tokenizer)

    def by_hand(x):
        X = x.numpy()
        codes = piped.transform(X)
        less = codes.copy()
        less[:, 3] = 0
        return X + piped.inverse_transform(less) - piped.inverse_transform(codes)

    expected = logits_in(replace_activations(extractor.site(), by_hand), model, ids)
    found = logits_in(ablate(make_pipeline(extractor, *piped), 3), model, ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_missing_or_given_twice(language, extractor, dictionary):
    model, pipeline = language.model, make_pipeline(extractor, dictionary)
    with pytest.raises(TypeError, match=r"After a model, steer\(\) takes layer, dictionary, feat"):
        steer(model, LAYER, dictionary, strength=1)
    with pytest.raises(TypeError, match=r"After a Pipeline, ablate\(\) takes features, but 0 of"):
        ablate(pipeline)
    with pytest.raises(TypeError, match=r"takes nothing, but 1 of these is given"):
        replace_activations(pipeline, dictionary)
    with pytest.raises(TypeError, match=r"After a Site, ablate\(\) takes dictionary, features"):
        ablate(extractor.site(), [1])
    with pytest.raises(TypeError, match=r"The Pipeline has its own side and call: leave that out"):
        steer(pipeline, 1, strength=1, side="output", call=0)
    with pytest.raises(TypeError, match=r"has to start with an ActivationExtractor"):
        steer(make_pipeline(StandardScaler(), dictionary), 1, strength=1)
    with pytest.raises(TypeError, match="layer must be a str, but is a SparseAutoencoderDict"):
        steer(model, dictionary, LAYER, 1, strength=1)
    with pytest.raises(ValueError, match="A site of one layer is needed"):
        steer(Site(model, [LAYER, "layers.0.out"]), dictionary, 1, strength=1)
    with pytest.raises(ValueError, match="'model' parameter of ablate"):
        ablate("gpt2", LAYER, dictionary, 1)
    with pytest.raises(ValueError, match="features has 256, but there are 256 features"):
        ablate(pipeline, 256)
    with pytest.raises(TypeError, match="has no method transform"):
        ablate(model, LAYER, np.eye(512), 1)


def state_of(model):
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    return hooks, [m.training for m in model.modules()]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["dictionary", "block", "behind"])
@pytest.mark.parametrize(
    "block",
    [
        lambda *where: ablate(*where, 1),
        lambda *where: steer(*where, 1, clamp=2.0),
        lambda *where: replace_activations(*where),
    ],
    ids=["ablate", "clamp", "replace"],
)
def test_the_model_is_restored(language, dictionary, ids, monkeypatch, error, where, block):
    model, before = language.model, state_of(language.model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        clean = model(ids).logits

    def fail(*args, **kwargs):
        raise error

    handle = None
    if where == "behind":
        handle = model.lm_head.register_forward_pre_hook(fail)
    elif where == "dictionary":
        monkeypatch.setattr(SparseAutoencoderDictionary, "tensor_codes", fail)
    with pytest.raises(error), block(model, LAYER, dictionary):
        model(ids)
        fail()
    if handle is not None:
        handle.remove()
    assert state_of(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, clean)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_function_entries_of_a_block(dictionary):
    """Of the whole block, the torch path and what cleans up after it; every third one."""
    import torch._dynamo  # compiled code has to be turned off as well

    model = torch.nn.Sequential(torch.nn.Identity()).requires_grad_(False)
    x = torch.ones(2, 512)
    sae = copy.deepcopy(dictionary)

    def call():
        with ablate(model, "0", sae, 1):
            model(x)

    call()
    before, n, config = state_of(model), 1, sklearn.get_config()
    while interrupted_at(n, call):
        # the blocks of torch and scikit-learn themselves do not survive all interrupts
        torch.set_grad_enabled(True)
        sklearn.set_config(**config)
        assert state_of(model) == before, n
        n += 3
    assert n > 200
    assert torch.equal(model(x), x)


def test_codes_are_found_once(language, dictionary, ids, monkeypatch):
    """One coding for each forward pass, on all selected tokens at once."""
    counts, original = [], SparseAutoencoderDictionary.tensor_codes

    def counted(self, x):
        counts.append(len(x))
        return original(self, x)

    monkeypatch.setattr(SparseAutoencoderDictionary, "tensor_codes", counted)
    n_tokens = int((ids != 0).sum())
    for block in (
        ablate(language.model, LAYER, dictionary, [1, 2]),
        replace_activations(language.model, LAYER, dictionary),
    ):
        del counts[:]
        logits_in(block, language.model, ids)
        assert counts == [n_tokens]
