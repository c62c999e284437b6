"""Interventions: the right activations change, in the right way, and nothing stays behind."""

import copy
import threading

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdict._core.language.hooks import read_activation
from skdict.inspection import replace_activations, steer

LAYER = "transformer.h.0.mlp.act"


@pytest.fixture
def model(language):
    return language.model


@pytest.fixture(scope="module")
def ids(language):
    texts = ["<|endoftext|>import numpy as np", "<|endoftext|>for i in range(", "def f():"]
    tokenizer = language.tokenizer
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def logits(model, ids):
    with torch.no_grad():
        return model(**ids).logits


def inside(model, ids):
    """The activation behind all interventions: what the next module is given."""
    with torch.no_grad():
        return read_activation(
            model, "transformer.h.0.mlp.c_proj", lambda: model(**ids), side="input"
        )


def content(ids):
    return (ids.input_ids != 0) & (ids.attention_mask == 1)


def hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


class TestReplace:
    def test_perfect_dictionary_gives_the_original_logits(self, model, ids, perfect):
        clean = logits(model, ids)
        with replace_activations(model, LAYER, perfect):
            np.testing.assert_allclose(logits(model, ids), clean, rtol=0, atol=1e-5)

    def test_activations_are_the_reconstruction_at_content_tokens(self, model, ids, dictionary):
        x, at = inside(model, ids), content(ids)
        codes = dictionary.transform(x[at].numpy())
        expected = x.clone()
        expected[at] = torch.from_numpy(dictionary.inverse_transform(codes))
        with replace_activations(model, LAYER, dictionary):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-5)
            assert torch.equal(inside(model, ids)[~at], x[~at])

    def test_scaled_and_ablated_features(self, model, ids, dictionary):
        x, at = inside(model, ids), content(ids)
        codes = dictionary.transform(x[at].numpy())
        a, b = np.argsort(-(codes > 0).sum(axis=0))[:2]
        changed = codes.copy()
        changed[:, a], changed[:, b] = 0, 2.5 * codes[:, b]
        reconstruction = dictionary.inverse_transform(changed)
        error = x[at].numpy() - dictionary.inverse_transform(codes)
        scale = {int(a): 0, b: 2.5}
        with replace_activations(model, LAYER, dictionary, scale=scale):
            np.testing.assert_allclose(inside(model, ids)[at], reconstruction, atol=1e-5)
        with replace_activations(model, LAYER, dictionary, scale=scale, keep_error=True):
            np.testing.assert_allclose(inside(model, ids)[at], reconstruction + error, atol=1e-5)
            assert torch.equal(inside(model, ids)[~at], x[~at])

    def test_sparse_codes(self, model, ids, dictionary):
        scale = {0: 0.0, 7: 3.0}
        with replace_activations(model, LAYER, dictionary, scale=scale):
            expected = inside(model, ids)
        dictionary.set_params(sparse_output=True)
        try:
            with replace_activations(model, LAYER, dictionary, scale=scale):
                np.testing.assert_allclose(inside(model, ids), expected, atol=1e-6)
        finally:
            dictionary.set_params(sparse_output=False)

    def test_nothing_changes_if_the_error_is_kept_and_no_feature_scaled(
        self, model, ids, dictionary
    ):
        clean = logits(model, ids)
        with replace_activations(model, LAYER, dictionary, keep_error=True):
            assert torch.equal(logits(model, ids), clean)

    def test_pandas_output_and_pipelines(self, model, ids, activations):
        pipeline = make_pipeline(StandardScaler(with_std=False), PCA(4, random_state=0)).fit(
            activations[:200]
        )
        with replace_activations(model, LAYER, pipeline, scale={1: 0}, keep_error=True):
            expected = inside(model, ids)
        pipeline.set_output(transform="pandas")
        with replace_activations(model, LAYER, pipeline, scale={1: 0}, keep_error=True):
            assert torch.equal(inside(model, ids), expected)

    def test_steps_that_work_in_place(self, model, ids, activations):
        clean = inside(model, ids)
        pipeline = make_pipeline(StandardScaler(copy=False), PCA(4, random_state=0)).fit(
            activations[:200].copy()
        )
        with replace_activations(model, LAYER, pipeline, keep_error=True):
            assert torch.equal(inside(model, ids), clean)

    def test_steps_without_feature_names(self, model, ids, activations):
        double = FunctionTransformer(lambda X: 2 * X, lambda X: X / 2)
        pipeline = make_pipeline(double, PCA(4, random_state=0)).fit(activations[:200])
        pipeline.steps.append(("nothing", "passthrough"))
        pipeline = make_pipeline(pipeline)
        alone = PCA(4, random_state=0).fit(activations[:200])
        with replace_activations(model, LAYER, alone, scale={1: 0}):
            expected = inside(model, ids)
        with replace_activations(model, LAYER, pipeline, scale={1: 0}):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-4)

    def test_a_model_of_images(self, image_model):
        X = torch.rand(5, 1, 3, 3)
        activation = image_model[:2](X)
        pca = PCA(1).fit(activation.movedim(1, -1).reshape(-1, 3).detach().numpy())
        rows = activation.detach().movedim(1, -1).reshape(-1, 3).numpy()
        replaced = pca.inverse_transform(pca.transform(rows)).reshape(5, 2, 2, 3)
        replaced = torch.from_numpy(replaced).movedim(-1, 1)
        with replace_activations(image_model, "1", pca) as replaced_model:
            found = replaced_model(X)
        expected = image_model[2:](replaced)
        np.testing.assert_allclose(found.detach(), expected.detach(), atol=1e-5)

    def test_input_side(self, model, ids, perfect):
        with replace_activations(
            model, "transformer.h.0.mlp.c_proj", lambda X: 0 * X, side="input"
        ):
            zero = logits(model, ids)
        with replace_activations(model, LAYER, lambda X: 0 * X):
            assert torch.equal(logits(model, ids), zero)


class TestSteer:
    def test_added(self, model, ids, dictionary):
        x, at = inside(model, ids), content(ids)
        expected = x.clone()
        atoms = torch.from_numpy(dictionary.components_)
        expected[at] += 3 * atoms[4] - 2 * atoms[9]
        with steer(model, LAYER, dictionary, [4, 9], strength=[3, -2]):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-5)
        with steer(model, LAYER, atoms, [4, 9], strength=[3, -2]):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-5)
        expected[at] = x[at] + 3 * atoms[4]
        with steer(model, LAYER, dictionary, 4, strength=3):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-5)

    def test_pinned(self, model, ids, dictionary):
        x, at = inside(model, ids), content(ids)
        codes = dictionary.transform(x[at].numpy())
        j = np.argmax((codes > 0).sum(axis=0))
        pinned = codes.copy()
        pinned[:, j] = 7
        change = dictionary.inverse_transform(pinned) - dictionary.inverse_transform(codes)
        with steer(model, LAYER, dictionary, [j], clamp=7):
            np.testing.assert_allclose(
                inside(model, ids)[at], (x[at] + torch.from_numpy(change)).numpy(), atol=1e-5
            )
            assert torch.equal(inside(model, ids)[~at], x[~at])

    def test_atoms_of_a_pipeline_are_those_in_activation_space(self, model, ids, activations):
        pipeline = make_pipeline(StandardScaler(), PCA(4, random_state=0)).fit(activations[:200])
        direction = pipeline[1].components_[2] * pipeline[0].scale_
        expected = inside(model, ids)
        expected[content(ids)] += torch.from_numpy(2 * direction).float()
        with steer(model, LAYER, pipeline, 2, strength=2):
            np.testing.assert_allclose(inside(model, ids), expected, atol=1e-5)

    def test_where_by_mask_and_by_function(self, model, ids, dictionary):
        x = inside(model, ids)
        mask = torch.zeros(ids.input_ids.shape, dtype=torch.bool)
        mask[0, 2] = mask[1, :3] = True
        changed = mask & content(ids)
        for where in (mask, mask.tolist(), lambda token_ids, positions: mask):
            with steer(model, LAYER, dictionary, 4, strength=3, where=where):
                difference = (inside(model, ids) != x).any(dim=-1)
            assert torch.equal(difference, changed)
        positions = [False, True, True]  # for all sequences, and nothing behind
        with steer(model, LAYER, dictionary, 4, strength=3, where=positions):
            difference = (inside(model, ids) != x).any(dim=-1)
        assert difference[:, 1:3].equal(content(ids)[:, 1:3]) and not difference[:, 3:].any()

    def test_special_tokens_of_the_tokenizer(self, model, ids, language, dictionary):
        x = inside(model, ids)
        model.config.bos_token_id, before = None, model.config.bos_token_id
        model.config.eos_token_id = model.config.pad_token_id = None
        try:
            for tokenizer, expected in (
                (language.tokenizer, content(ids)),
                (None, ids.attention_mask == 1),  # nothing tells that token 0 is special
            ):
                with steer(model, LAYER, dictionary, 4, strength=3, tokenizer=tokenizer):
                    difference = (inside(model, ids) != x).any(dim=-1)
                assert torch.equal(difference, expected)
        finally:
            model.config.bos_token_id = model.config.eos_token_id = before
            model.config.pad_token_id = before


class TestGenerate:
    @pytest.fixture
    def prompt(self, language):
        return language.tokenizer("def __init__(self", return_tensors="pt")

    def generate(self, model, prompt, **options):
        return model.generate(
            **prompt, max_new_tokens=12, do_sample=False, pad_token_id=0, **options
        )

    def by_hand(self, model, prompt, n_new=12):
        """Greedy decoding without cache: the whole sequence anew for each token."""
        ids = prompt.input_ids
        for _ in range(n_new):
            with torch.no_grad():
                new = model(ids, use_cache=False).logits[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, new[:, None]], dim=1)
            if new.item() == 0:
                break
        return ids

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [
            {"strength": 6.0},
            {"clamp": 6.0},
            {"strength": 6.0, "where": np.arange(40) % 2 == 0},
            {"strength": 12.0, "where": np.ones(6, dtype=bool)},
            {"strength": 6.0, "where": lambda token_ids, positions: positions >= 5},
        ],
        ids=["strength", "clamp", "every other", "prompt only", "generated only"],
    )
    def test_with_and_without_cache(self, model, prompt, dictionary, options):
        plain = self.generate(model, prompt)
        differ = []
        for feature in range(0, 256, 32):
            with steer(model, LAYER, dictionary, feature, **options):
                cached = self.generate(model, prompt, use_cache=True)
                assert torch.equal(cached, self.generate(model, prompt, use_cache=False))
                assert torch.equal(cached, self.by_hand(model, prompt))
            differ.append(not torch.equal(cached, plain))
        assert any(differ)
        assert torch.equal(self.generate(model, prompt), plain)

    def test_beams_and_padding_on_the_left(self, model, language, dictionary):
        language.tokenizer.padding_side = "left"
        try:
            prompts = language.tokenizer(
                ["x = 1", "def __init__(self, name"], return_tensors="pt", padding=True
            )
        finally:
            language.tokenizer.padding_side = "right"
        with steer(model, LAYER, dictionary, 3, strength=5.0):
            both = self.generate(model, prompts, num_beams=2)
        for i in range(2):
            at = prompts.attention_mask[i] == 1
            alone = {
                "input_ids": prompts.input_ids[i : i + 1, at],
                "attention_mask": prompts.attention_mask[i : i + 1, at],
            }
            with steer(model, LAYER, dictionary, 3, strength=5.0):
                expected = self.generate(model, alone, num_beams=2)[0, at.sum() :].tolist()
            found = both[i, prompts.input_ids.shape[1] :].tolist()
            assert found[: len(expected)] == expected


class TestRestored:
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_bit_identical_after_leaving(self, model, ids, dictionary, mode):
        getattr(model, mode)()
        try:
            dropout = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
            assert all(module.p == 0 for module in dropout)
            clean, n_hooks = logits(model, ids), hooks(model)
            with replace_activations(model, LAYER, dictionary):
                assert not torch.equal(logits(model, ids), clean)
                with steer(model, LAYER, dictionary, 1, strength=5):
                    nested = logits(model, ids)
                    with steer(model, LAYER, dictionary, 2, strength=1):
                        logits(model, ids)
                    assert torch.equal(logits(model, ids), nested)
                    with (
                        pytest.raises(ZeroDivisionError),
                        steer(model, "transformer.h.0", torch.eye(128), 2, strength=1),
                    ):
                        assert not torch.equal(logits(model, ids), nested)
                        raise ZeroDivisionError
                    assert torch.equal(logits(model, ids), nested)
            assert torch.equal(logits(model, ids), clean)
            assert hooks(model) == n_hooks
            assert model.training == (mode == "train")
        finally:
            model.eval()

    def test_after_a_failure_of_the_forward_pass(self, model, ids, dictionary):
        clean, n_hooks = logits(model, ids), hooks(model)
        with steer(model, LAYER, dictionary, 1, strength=5):
            expected = logits(model, ids)
            with pytest.raises(IndexError):
                model(torch.tensor([[5000]]))
            # what the failed call was given is forgotten
            hidden = torch.ones(1, 7, 512)
            assert not torch.equal(model.get_submodule(LAYER)(hidden), hidden)
            assert torch.equal(logits(model, ids), expected)
        assert torch.equal(logits(model, ids), clean)
        assert hooks(model) == n_hooks

    @pytest.mark.parametrize("how", ["stopped", "interrupted"])
    def test_after_a_forward_pass_that_did_not_end(self, model, ids, dictionary, how):
        """Its tokens are forgotten, though torch calls no hook then."""

        def interrupt(*call):
            raise KeyboardInterrupt

        mlp, hidden = model.transformer.h[0].mlp, torch.ones(1, 7, 128)
        with torch.no_grad(), steer(model, LAYER, dictionary, 1, strength=5):
            expected = mlp(hidden)
            if how == "stopped":
                inside(model, ids)
            else:
                handle = mlp.c_proj.register_forward_pre_hook(interrupt)
                with pytest.raises(KeyboardInterrupt) as caught:
                    model(**ids)
                handle.remove()
                assert caught.traceback  # which keeps what was given alive
            assert torch.equal(mlp(hidden), expected)

    def test_each_thread_has_its_own_tokens(self, model, ids, dictionary):
        """A forward pass that waits in the layer in front, while another one runs."""
        waits, goes_on, found = threading.Event(), threading.Event(), []

        def pause(*call):
            if threading.current_thread() is not threading.main_thread():
                waits.set()
                assert goes_on.wait(30)

        short = {"input_ids": ids.input_ids[:1, :3]}
        with steer(model, LAYER, dictionary, 1, strength=5):
            expected = logits(model, short)
            handle = model.transformer.h[0].mlp.c_fc.register_forward_hook(pause)
            thread = threading.Thread(target=lambda: found.append(logits(model, short)))
            thread.start()
            try:
                assert waits.wait(30)
                logits(model, ids)
            finally:
                goes_on.set()
                thread.join()
                handle.remove()
        assert torch.equal(found[0], expected)

    def test_order_of_nested_blocks(self, model, ids):
        with (
            replace_activations(model, LAYER, lambda X: 0 * X + 1),
            replace_activations(model, LAYER, lambda X: 3 * X),
        ):
            assert (inside(model, ids)[content(ids)] == 3).all()

    def test_gradients_pass_through_steering(self, model, ids, dictionary):
        with steer(model, LAYER, dictionary, 1, strength=5):
            loss = model(**ids, labels=ids.input_ids).loss
        gradient = torch.autograd.grad(loss, model.transformer.h[0].mlp.c_fc.weight)[0]
        assert gradient.abs().sum() > 0


class TestWithoutEffect:
    def test_layer_that_is_never_called(self):
        model = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
        x = torch.randn(2, 5, 8)
        for block in (
            replace_activations(model, "out_proj", lambda X: 0 * X),
            steer(model, "out_proj", np.eye(8), 1, strength=1.0),
        ):
            with (
                pytest.warns(UserWarning, match="'out_proj'.*was never called") as caught,
                torch.no_grad(),
                block,
            ):
                model(x, x, x)
            assert [warning.filename for warning in caught] == [__file__]

    def test_compiled_model(self):
        torch._dynamo.reset()
        plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        compiled, x = torch.compile(plain.requires_grad_(False), backend="eager"), torch.ones(5, 4)
        clean = compiled(x)
        expected = plain[2](plain[:2](x) + torch.tensor([0.0, 5.0, 0.0]))
        for layer in ("1", "_orig_mod.1"):
            with steer(compiled, layer, np.eye(3), 1, strength=5):
                np.testing.assert_allclose(compiled(x), expected, atol=1e-6)
        assert torch.equal(compiled(x), clean)

    @pytest.mark.parametrize("wrapper", ["DataParallel", "peft"])
    def test_wrapped_model(self, ids, language, dictionary, wrapper):
        with steer(language.model, LAYER, dictionary, 1, strength=5):
            expected = logits(language.model, ids)
        if wrapper == "peft":
            peft = pytest.importorskip("peft")
            config = peft.LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True)
            wrapped = peft.get_peft_model(copy.deepcopy(language.model), config).eval()
            layers = LAYER, f"base_model.model.{LAYER}"
        else:
            wrapped = torch.nn.DataParallel(language.model)
            layers = (f"module.{LAYER}",)
        for layer in layers:
            with steer(wrapped, layer, dictionary, 1, strength=5):
                np.testing.assert_allclose(logits(wrapped, ids), expected, atol=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, r"Exactly one of strength and clamp"),
            ({"strength": 1, "clamp": 1}, r"Exactly one of strength and clamp"),
            ({"strength": [1, 2]}, r"strength must be a number, or one for each of the 1"),
            ({"strength": ["much"]}, r"strength must be an array of real numbers"),
            ({"strength": np.inf}, r"strength must be finite"),
            ({"strength": 1, "where": [1, 2]}, r"where must be true or false"),
            ({"strength": 1, "where": "all"}, r"where must be true or false"),
            ({"strength": 1, "where": np.ones((1, 2, 3), bool)}, r"where must be true or false"),
        ],
    )
    def test_steer(self, model, dictionary, options, message):
        with pytest.raises((TypeError, ValueError), match=message):
            steer(model, LAYER, dictionary, 3, **options).__enter__()

    def test_unknown_layer_and_feature(self, model, dictionary):
        with pytest.raises(ValueError, match=r"layer='h.0' names no submodule"):
            steer(model, "h.0", dictionary, 3, strength=1).__enter__()
        with pytest.raises(ValueError, match=r"features has 256, but there are 256 features"):
            steer(model, LAYER, dictionary, 256, strength=1).__enter__()
        with pytest.raises(ValueError, match=r"scale has 999, but there are 256 features"):
            replace_activations(model, LAYER, dictionary, scale={999: 0}).__enter__()
        with pytest.raises(ValueError, match=r"scale must be finite"):
            replace_activations(model, LAYER, dictionary, scale={9: np.nan}).__enter__()

    def test_no_dictionary(self, model):
        with pytest.raises(TypeError, match=r"fitted estimator with transform and inverse_tran"):
            replace_activations(model, LAYER, np.eye(3)).__enter__()
        with pytest.raises(TypeError, match=r"With scale and keep_error, dictionary must be"):
            replace_activations(model, LAYER, lambda X: X, scale={0: 1}).__enter__()
        with pytest.raises(TypeError, match=r"With clamp, dictionary must be"):
            steer(model, LAYER, np.eye(512), 0, clamp=1).__enter__()

    def test_dictionary_of_another_layer(self, model, ids, dictionary):
        with (
            steer(model, "transformer.h.0", dictionary, 3, strength=1),
            pytest.raises(ValueError, match=r"atoms of 512 features, but the layer's activ"),
        ):
            logits(model, ids)

    def test_mask_of_another_shape(self, model, ids, dictionary):
        where = np.ones((2, 4), dtype=bool)
        with (
            steer(model, LAYER, dictionary, 3, strength=1, where=where),
            pytest.raises(ValueError, match=r"where selects from shape \(2, \d\), but the"),
        ):
            logits(model, ids)

    def test_layer_without_one_vector_per_token(self, model, ids):
        with (
            steer(model, "transformer.wpe", np.eye(128), 3, strength=1),
            pytest.raises(ValueError, match=r"has \(1, \d\) vectors, but the tokens are of"),
        ):
            logits(model, ids)
