"""Effects run from the layer on: against whole runs of the model, feature by feature."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict._core.formats import Record, Weights
from skdict._core.language.hooks import run_replaced
from skdict._core.language.rest import Rest
from skdict._core.models.architectures import ReLU
from skdict._core.normalization import RowNormalization
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.decomposition._records import estimator_from
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    feature_effects,
    metric_effects,
    output_score,
    replace_activations,
    steering_effect,
)
from skdict.inspection.actions._effects import measured_effects
from skdict.inspection.actions._language import Language

transformers = pytest.importorskip("transformers")
# path, side, and what is run for each feature
LAYERS = [
    ("transformer.h.1.mlp.act", "output", "tokens"),
    ("transformer.h.1", "output", "tokens"),
    ("transformer.ln_f", "input", "tokens"),
    ("transformer.h.1.ln_2", "input", "tokens"),
    ("transformer.h.0.mlp.c_proj", "input", "windows"),
    ("transformer.h.1", "input", "windows"),
    ("transformer.wte", "output", "windows"),
]


@pytest.fixture(scope="module")
def short(texts):
    return [text[:n] for text, n in zip(texts, (120, 90, 60, 20), strict=False)]


@pytest.fixture(scope="module")
def model():
    config = transformers.GPT2Config(
        vocab_size=4096, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).double().eval()


def pipeline_of(model, layer, side, language, short, **options):
    extractor = ActivationExtractor(
        model, layer, side=side, tokenizer=language.tokenizer, max_length=40, **options
    )
    return make_pipeline(extractor, PCA(5).fit(extractor.transform(short)))


def by_whole_runs(pipeline, texts, feature):
    """(rows, effects, first-order effects): whole windows, one feature, one prediction a time."""
    language = Language(pipeline)
    atom = torch.from_numpy(pipeline[-1].components_[feature]).double()
    windows, first, found = language.windows(texts), 0, []
    for w, ids in enumerate(windows.token_ids):
        ids, kept = torch.from_numpy(ids)[None], windows.kept[w]
        codes = np.zeros(len(kept))
        n_rows = kept.sum()
        codes[kept] = pipeline.transform(texts)[first : first + n_rows, feature]
        part = torch.from_numpy(codes)[:, None] * atom

        def log_p(function, ids=ids):
            output = run_replaced(
                language.model,
                language.layer,
                function,
                lambda: language.model(ids, use_cache=False),
                side=language.side,
            )
            return output.logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]

        amount = torch.ones((), dtype=torch.float64, requires_grad=True)
        effect = log_p(torch.clone) - log_p(lambda x, part=part: x - part)
        slopes = log_p(lambda x, part=part, amount=amount: x + (amount - 1) * part)
        for rank, t in enumerate(np.flatnonzero(kept)):
            if codes[t] > 0 and t + 1 < len(kept) and kept[t + 1]:
                (slope,) = torch.autograd.grad(slopes[t], amount, retain_graph=True)
                found.append((first + rank, effect[t].item(), slope.item()))
        first += n_rows
    return [np.array(each) for each in zip(*found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "side", "kind"), LAYERS)
def test_against_whole_runs(model, language, short, layer, side, kind, monkeypatch):
    kinds = []
    start = Rest.start

    def noting(self, *args):
        batch = start(self, *args)
        kinds.append(self.kind)
        return batch

    monkeypatch.setattr(Rest, "start", noting)
    pipeline = pipeline_of(model, layer, side, language, short, batch_size=3)
    for feature, effect in enumerate(feature_effects(pipeline, short)[:2]):
        rows, ablation, slopes = by_whole_runs(pipeline, short, feature)
        assert_array_equal(effect.rows, rows)
        assert_allclose(effect.ablation, ablation, atol=2e-6)
        assert_allclose(effect.first_order, slopes, atol=2e-6)
    assert set(kinds) == {kind}


class TestWhatIsRun:
    @pytest.fixture
    def pipeline(self, model, language, short):
        return pipeline_of(copy.deepcopy(model), *LAYERS[0][:2], language, short)

    def test_blocks_before_the_layer_run_once(self, pipeline, short):
        n_calls = []
        block = pipeline[0].model.transformer.h[0].attn
        block.register_forward_hook(lambda *args: n_calls.append(1))
        forward = block.forward

        def counted(*args, **kwargs):
            n_calls.append(2)
            return forward(*args, **kwargs)

        block.forward = counted
        measured_effects(Language(pipeline), short, np.arange(5))
        n_batches = 1
        # start, and the two runs of the whole model that tell what can be run
        assert n_calls.count(2) <= n_batches + 4
        assert block.forward is counted

    def test_a_part_that_cannot_be_run_alone(self, pipeline, language, short):
        """What the rest needs is not what modules return: the model is run whole."""
        model = pipeline[0].model
        expected = feature_effects(pipeline, short, [0, 3])
        kept = {}
        model.transformer.h[0].register_forward_hook(
            lambda module, args, output: kept.update(x=output)
        )
        model.transformer.ln_f.register_forward_pre_hook(
            lambda module, args: (args[0] + 0 * kept.pop("x"),)
        )
        parts = Language(pipeline)
        found = measured_effects(parts, short, np.array([0, 3]), first_order=True)
        assert parts.rest.kind == "tokens"  # hooks run as ever
        model.transformer.ln_f.register_forward_pre_hook(
            lambda module, args: (args[0] * (1 + 0.1 * (args[0].shape[1] == 1)),)
        )
        parts = Language(pipeline)
        measured_effects(parts, short, np.array([0]))
        assert parts.rest.kind == "windows"
        for each, same in zip(found, expected, strict=True):
            assert_allclose(each.ablation, same.ablation, atol=1e-6)

    def test_whole_runs(self, pipeline, short):
        expected = feature_effects(pipeline, short, [0, 3])
        parts = Language(pipeline)
        parts.rest.kind = "whole"
        found = measured_effects(parts, short, np.array([0, 3]), first_order=True)
        for each, same in zip(found, expected, strict=True):
            assert_array_equal(each.rows, same.rows)
            assert_allclose(each.ablation, same.ablation, atol=1e-6)
            assert_allclose(each.first_order, same.first_order, atol=1e-6)

    def test_inside_an_intervention(self, pipeline, language, short):
        """Another layer's activations are replaced around it all."""
        before = replace_activations(
            pipeline[0].model, "transformer.h.0", lambda X: 0.5 * X, tokenizer=language.tokenizer
        )
        with before:
            parts = Language(pipeline)
            (found,) = measured_effects(parts, short, np.array([0]))
            rows, expected, _ = by_whole_runs(pipeline, short, 0)
        assert parts.rest.kind == "tokens"
        assert_array_equal(found.rows, rows)
        assert_allclose(found.ablation, expected, atol=2e-6)

    def test_model_is_left_as_it_was(self, pipeline, short, monkeypatch):
        model = pipeline[0].model
        before = [dict(vars(module)) for module in model.modules()]

        def interrupted(*args):
            raise KeyboardInterrupt

        for broken in (False, True):
            if broken:
                model.lm_head.forward = interrupted
            try:
                feature_effects(pipeline, short, [0])
            except KeyboardInterrupt:
                assert broken
            vars(model.lm_head).pop("forward", None)
            for module, attributes in zip(model.modules(), before, strict=True):
                assert "forward" not in vars(module)
                assert len(module._forward_hooks) == len(attributes["_forward_hooks"])
                assert len(module._forward_pre_hooks) == len(attributes["_forward_pre_hooks"])


@pytest.mark.slow
@pytest.mark.parametrize("place", [LAYERS[1], LAYERS[5]])
def test_integrated_gradients(model, language, short, place):
    """Of a dictionary of one feature they tend to what is measured without it."""
    layer, side, _ = place
    pipeline = pipeline_of(model, layer, side, language, short)
    pipeline = make_pipeline(pipeline[0], PCA(1).fit(pipeline[0].transform(short)))
    gaps = []
    for n_steps in (1, 2, 100):
        (effect,) = feature_effects(pipeline, short, 0, n_steps=n_steps)
        gaps.append(np.abs(effect.first_order - effect.ablation).mean())
    assert gaps[2] < 0.05 * gaps[0] and gaps[2] < gaps[1] < gaps[0]


def test_several_features_on_the_way(model, language, short):
    """All features are taken away along the way, whichever are asked for."""
    pipeline = pipeline_of(model, *LAYERS[1][:2], language, short)
    pca = pipeline[-1]
    (effect,) = feature_effects(pipeline, short, 2, n_steps=2)
    codes, tokens = pipeline.transform(short), pipeline[0].tokens(short)
    atoms = torch.from_numpy(pca.components_).double()
    X = torch.from_numpy(pipeline[0].transform(short)).double()
    for row, found in zip(effect.rows, effect.first_order, strict=True):
        z, gradients = torch.from_numpy(codes[row]).double(), []
        for share in (0, 0.5):
            x = (X[row] - share * (z @ atoms)).requires_grad_()
            logits = model.lm_head(model.transformer.ln_f(x))
            target = logits.log_softmax(-1)[tokens.token_id[row + 1]]
            gradients.append(torch.autograd.grad(target, x)[0])
        expected = z[2] * (sum(gradients) / 2) @ atoms[2]
        assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer_norm", "row_norm"])
@pytest.mark.parametrize(("layer", "side", "what"), [LAYERS[1], LAYERS[5]])
def test_dictionaries_that_normalise_rows(model, layer, side, what, kind, language, short):
    """A unit of a code is another amount for each token: against runs with scaled codes."""
    draw = np.random.default_rng(0).normal
    weights = Weights(
        encoder=torch.from_numpy(draw(size=(6, 16))),
        encoder_bias=torch.zeros(6, dtype=torch.float64),
        decoder=torch.from_numpy(draw(size=(6, 16))),
        decoder_bias=torch.from_numpy(draw(size=16)),
        normalization=RowNormalization(kind, 1e-5),
    )
    record = Record(weights.dictionary(units="source", dtype=torch.float64), ReLU())
    extractor = ActivationExtractor(
        model, layer, side=side, tokenizer=language.tokenizer, max_length=40
    )
    dictionary = estimator_from(record, SparseAutoencoderDictionary)
    pipeline, text = make_pipeline(extractor, dictionary), short[2]
    effects = feature_effects(pipeline, [text], [1, 4])
    windows = Language(pipeline).windows([text])
    ids, positions = torch.from_numpy(windows.token_ids[0]), np.flatnonzero(windows.kept[0])
    whole = metric_effects(pipeline, [text], [1, 4], metric=lambda output, i: summed(output, ids))

    def without(feature, scale):
        site = extractor.site()
        with replace_activations(site, dictionary, scale={feature: scale}, keep_error=True):
            logits = model(ids[None], use_cache=False).logits
        return logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]

    with torch.no_grad():
        for k, (feature, effect) in enumerate(zip([1, 4], effects, strict=True)):
            clean, rows = without(feature, 1.0), positions[effect.rows]
            assert len(rows) > 3
            ablation = clean - without(feature, 0.0)
            slope = (without(feature, 1 + 1e-5) - without(feature, 1 - 1e-5)) / 2e-5
            assert_allclose(effect.ablation, ablation[rows], rtol=1e-4, atol=1e-6)
            assert_allclose(effect.first_order, slope[rows], rtol=1e-4, atol=1e-6)
            assert_allclose(whole.ablation[0, k], ablation.sum(), rtol=1e-4, atol=1e-6)
            assert_allclose(whole.first_order[0, k], slope.sum(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="normalises each row"):
        output_score(pipeline, 1, strength=1.0)
    with pytest.raises(ValueError, match="normalises each row"):
        steering_effect(pipeline, 1, [1.0], lambda text: True)


def summed(output, ids):
    log_p = output.logits.log_softmax(-1)[:, :-1]
    return log_p.gather(2, ids[1:].expand(len(log_p), -1)[..., None]).sum(dim=(1, 2))
