"""Effects on a user's metric: against plain runs, one sample and one feature at a time."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import issparse
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict._core.language.hooks import run_replaced
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import feature_effects, metric_effects


def plain(model, layer, axis, pipeline, inputs, metric):
    """(values, ablation, first order, first order of two steps) by plain loops."""
    pca = pipeline[-1]
    value, effects = [], {"ablation": [], "first_order": [], "two steps": []}
    for i, x in enumerate(inputs):

        def run(function, x=x, i=i):
            output = run_replaced(model, layer, function, lambda: model(x[None]))
            return metric(output, torch.tensor([i]))[0]

        found = []
        clean = run(lambda a, found=found: (found.append(a.detach().movedim(axis, -1)), a)[1])
        rows = found[0].flatten(0, -2)
        codes = torch.from_numpy(pca.transform(rows.numpy())).double()
        atoms = torch.from_numpy(pca.components_).double()

        def moved(rows, like=found[0]):
            return rows.reshape(like.shape).movedim(-1, axis)

        gradients = []
        for share in (0, 0.5):
            leaf = (rows - share * codes @ atoms).clone().requires_grad_()
            target = run(lambda a, leaf=leaf: moved(leaf))
            gradients.append(torch.autograd.grad(target, leaf)[0])
        value.append(clean.item())
        of_sample = {name: [] for name in effects}
        for j in range(len(atoms)):
            part = codes[:, [j]] * atoms[j]
            of_sample["ablation"].append(
                (clean - run(lambda a, rows=rows - part: moved(rows))).item()
            )
            of_sample["first_order"].append((part * gradients[0]).sum().item())
            of_sample["two steps"].append((part * sum(gradients) / 2).sum().item())
        for name, row in of_sample.items():
            effects[name].append(row)
    return np.array(value), *(np.array(each) for each in effects.values())


def metric(logits, index):
    return logits.log_softmax(1)[torch.arange(len(index)), index % 2] * (1 + index)


@pytest.mark.parametrize(("layer", "axis"), [("1", 1), ("2", -1)])
def test_a_model_of_images(image_model, layer, axis):
    model = copy.deepcopy(image_model).double()
    X = np.random.default_rng(0).random((7, 1, 3, 3))
    extractor = ActivationExtractor(model, layer, tokenizer=None, batch_size=3)
    pipeline = make_pipeline(extractor, PCA(3).fit(extractor.transform(X)))
    inputs = torch.from_numpy(X)
    value, ablation, first_order, two_steps = plain(model, layer, axis, pipeline, inputs, metric)
    found = metric_effects(pipeline, X, metric=metric)
    assert issparse(found.ablation) and found.ablation.shape == (7, 3)
    close = {"rtol": 1e-5, "atol": 1e-6}
    assert_allclose(found.value, value, **close)
    assert_allclose(found.ablation.toarray(), ablation, **close)
    assert_allclose(found.first_order.toarray(), first_order, **close)
    some = metric_effects(pipeline, X, [2, 0], metric=metric, ablate=False, n_steps=2)
    assert some.ablation is None
    assert_array_equal(some.feature, [2, 0])
    assert_allclose(some.first_order.toarray(), two_steps[:, [2, 0]], **close)
    one = metric_effects(pipeline, X, 1, metric=metric, n_steps=0)
    assert one.first_order is None
    assert_allclose(one.ablation.toarray(), ablation[:, [1]], **close)


def test_the_likelihood_of_texts(extractor, dictionary, texts):
    """The sum over tokens of the effects on each, as no attention follows; also of windows."""
    short = copy.copy(extractor).set_params(max_length=30, batch_size=4)
    pipeline, few = make_pipeline(short, dictionary), [text[:120] for text in texts[:3]]
    language = short.load()

    def likelihood(output, index):
        assert len(index) == len(output.logits)
        return ids_of.log_probability(output.logits)

    class IdsOf:
        """Token ids of the pass in progress."""

        def __init__(self, model):
            model.register_forward_pre_hook(self.note, with_kwargs=True)

        def note(self, module, args, kwargs):
            self.ids, self.mask = args[0], kwargs["attention_mask"].bool()

        def log_probability(self, logits):
            after = logits[:, :-1].log_softmax(-1).gather(2, self.ids[:, 1:, None])[..., 0]
            counted = self.mask[:, 1:] & self.mask[:, :-1]
            counted[:, 0] = False  # after the token that opens a text
            return (after * counted).sum(dim=1)

    model = copy.deepcopy(language["model"])
    ids_of = IdsOf(model)
    pipeline = make_pipeline(copy.copy(short).set_params(model=model), dictionary)
    codes = dictionary.transform(short.transform(few))
    features = np.argsort(-(codes > 0).sum(axis=0))[:4]
    found = metric_effects(pipeline, few, features, metric=likelihood)
    tokens = short.tokens(few)
    for j, effect in enumerate(feature_effects(make_pipeline(short, dictionary), few, features)):
        document = tokens.document[effect.rows]
        for name in ("ablation", "first_order"):
            expected = np.bincount(document, weights=effect[name], minlength=len(few))
            assert_allclose(found[name].toarray()[:, j], expected, rtol=1e-3, atol=1e-4)


def test_bad_input(image_model):
    X = np.random.default_rng(0).random((4, 1, 3, 3)).astype(np.float32)
    extractor = ActivationExtractor(image_model, "1", tokenizer=None)
    pipeline = make_pipeline(extractor, PCA(2)).fit(X)
    with pytest.raises(ValueError, match=r"metric must return a tensor of shape \(4,\)"):
        metric_effects(pipeline, X, metric=lambda output, index: output)
    with pytest.raises(ValueError, match=r"metric returns no gradient.*n_steps=0"):
        metric_effects(pipeline, X, metric=lambda output, index: output.detach()[:, 0])
    with pytest.raises(ValueError, match=r"features has 2, but there are 2 features"):
        metric_effects(pipeline, X, 2, metric=metric)
    with pytest.raises(TypeError, match=r"pipeline must be a fitted Pipeline whose first step"):
        metric_effects(pipeline[1:], X, metric=metric)


def test_layers_by_their_friendly_names(language):
    """They are found where the extractor finds them."""
    texts, found = ["import numpy as np"], []
    path = ("transformer.h.0.mlp.c_proj", "input")
    for layer, side in (path, ("layers.0.mlp.act", "output")):
        extractor = ActivationExtractor(
            language.model, layer, side=side, tokenizer=language.tokenizer
        )
        pipeline = make_pipeline(extractor, PCA(2, random_state=0)).fit(texts)
        effects = metric_effects(
            pipeline, texts, [0], metric=lambda output, index: output.logits[:, -1, 0]
        )
        found.append(effects.ablation.toarray())
    assert_array_equal(*found)
