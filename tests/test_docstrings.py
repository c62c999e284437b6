"""Every public object is documented: its parameters, its fitted attributes, a runnable example."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

import skdict

# https://numpydoc.readthedocs.io/en/latest/validation.html
CHECKS = {
    "GL06",  # unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "SS01",  # no summary
    "SS02",  # summary does not start with a capital letter
    "SS03",  # summary does not end with a period
    "SS06",  # summary of more than one line
    "PR01",  # parameters not documented
    "PR02",  # unknown parameters
    "PR03",  # parameters in the wrong order
    "PR04",  # parameter without type
    "PR10",  # no space before the colon
    "RT01",  # no Returns section
    "YD01",  # no Yields section
}


def public_objects(module):
    """Names and objects that a module exports, and those of the modules that it exports."""
    for name in module.__all__:
        object = getattr(module, name)
        if inspect.ismodule(object):
            yield from public_objects(object)
        else:
            yield f"{module.__name__}.{name}", object


OBJECTS = {
    name: object
    for subpackage in skdict._SUBPACKAGES
    for name, object in public_objects(importlib.import_module(f"skdict.{subpackage}"))
}
CLASSES = {name: object for name, object in OBJECTS.items() if inspect.isclass(object)}


def is_documented_in_a_base(cls, method):
    return any(getattr(vars(base).get(method), "__doc__", None) for base in cls.__mro__[1:])


METHODS = [
    f"{name}.{method}"
    for name, object in CLASSES.items()
    for method, function in inspect.getmembers(object, callable)
    if not method.startswith("_")
    and (getattr(function, "__module__", None) or "").startswith("skdict.")
    and not (function.__doc__ is None and is_documented_in_a_base(object, method))
]
MODULES = [module.name for module in pkgutil.walk_packages(skdict.__path__, prefix="skdict.")]


def test_all_subpackages_are_looked_at():
    assert {name.split(".")[1] for name in OBJECTS} == set(skdict._SUBPACKAGES)
    assert "skdict.decomposition.SparseAutoencoderDictionary.fit" in METHODS
    assert "skdict.decomposition._sparse_autoencoder" in MODULES


@pytest.mark.parametrize("name", [*OBJECTS, *METHODS])
def test_numpydoc(name):
    found = [f"{code}: {text}" for code, text in validate(name)["errors"] if code in CHECKS]
    assert not found, f"{name}: {found}"


@pytest.mark.parametrize(
    "name", [n for n, o in OBJECTS.items() if n not in CLASSES or not issubclass(o, tuple)]
)
def test_every_public_object_has_an_example(name):
    object = OBJECTS[name]
    documentation = ClassDoc(object) if inspect.isclass(object) else FunctionDoc(object)
    assert any(line.startswith(">>> ") for line in documentation["Examples"]), name


@pytest.mark.parametrize("name", OBJECTS)
def test_documented_defaults_are_the_defaults(name):
    object = OBJECTS[name]
    documentation = ClassDoc(object) if inspect.isclass(object) else FunctionDoc(object)
    documented = {}
    for parameter in documentation["Parameters"]:
        match = re.search(r"default=(.+)$", parameter.type)
        names = parameter.name.split(", ")
        texts = match.group(1).split(" and ") if match else [None]
        documented |= dict(zip(names, texts * (len(names) // len(texts)), strict=True))
    for parameter in inspect.signature(object).parameters.values():
        if parameter.default is parameter.empty or parameter.kind == parameter.VAR_KEYWORD:
            continue
        text = documented[parameter.name]
        if parameter.name == "y" and parameter.default is None:
            continue
        assert ast.literal_eval(text) == parameter.default, parameter


def fit_dictionaries():
    X = np.random.default_rng(0).normal(size=(100, 4))
    X = pd.DataFrame(X, columns=[f"neuron{i}" for i in range(4)])
    dictionary = OBJECTS["skdict.decomposition.SparseAutoencoderDictionary"]
    for solver in ("autoencoder", "dictionary_learning"):
        yield dictionary(5, solver=solver, early_stopping=True, max_iter=2).fit(X)
    yield dictionary(5, solver="lasso").fit(X)
    for architecture in ("topk", "jumprelu"):
        yield dictionary(5, architecture=architecture, max_iter=2).fit(X)
    yield dictionary(5, solver="kmeans").fit(X)


def fit_selected_dictionaries():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 4)), columns=list("abcd"))
    selected = OBJECTS["skdict.decomposition.SparseAutoencoderDictionaryCV"]
    options = {"max_iter": 2, "alphas": 2, "cv": 2}
    for params in (
        {"architecture": "jumprelu", "early_stopping": True},
        {"solver": "kmeans", "transform_algorithm": "lasso"},
    ):
        yield selected(5, **params, **options).fit(X)


def fit_extractors():
    extractor = OBJECTS["skdict.feature_extraction.ActivationExtractor"]
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    X = pd.DataFrame(np.zeros((3, 4), dtype=np.float32), columns=list("abcd"))
    yield extractor(model, "1", tokenizer=None).fit(X)


def fit_document_features():
    model = OBJECTS["skdict.datasets.load_one_layer_transformer"]().path
    extractor = OBJECTS["skdict.feature_extraction.ActivationExtractor"]
    dictionary = OBJECTS["skdict.decomposition.SparseAutoencoderDictionary"]
    features = OBJECTS["skdict.feature_extraction.DocumentFeatures"]
    yield features(extractor(model, "transformer.h.0.mlp"), dictionary(5, max_iter=2)).fit(
        ["ab c"]
    )


def fit_row_transforms():
    X = pd.DataFrame(np.ones((3, 2)), columns=["a", "b"])
    yield OBJECTS["skdict.feature_extraction.RowTransform"]().fit(X)


FITTED = {
    "skdict.decomposition.SparseAutoencoderDictionary": fit_dictionaries,
    "skdict.decomposition.SparseAutoencoderDictionaryCV": fit_selected_dictionaries,
    "skdict.feature_extraction.ActivationExtractor": fit_extractors,
    "skdict.feature_extraction.DocumentFeatures": fit_document_features,
    "skdict.feature_extraction.RowTransform": fit_row_transforms,
}


@pytest.mark.parametrize("name", [n for n, c in CLASSES.items() if issubclass(c, BaseEstimator)])
def test_fitted_attributes_are_documented(name):
    documented = {attribute.name for attribute in ClassDoc(CLASSES[name])["Attributes"]}
    set_by_fit = set()
    for estimator in FITTED[name]():
        getattr(estimator, "noise_variance_", None)  # shows what is found when asked for
        there = set(dir(estimator)) - set(dir(type(estimator)))
        set_by_fit |= {a for a in there if a.endswith("_") and not a.startswith("_")}
    undocumented = set_by_fit - documented
    assert not undocumented
    properties = {a for a in documented if isinstance(getattr(CLASSES[name], a, None), property)}
    assert documented - properties <= set_by_fit


# Their examples train several dictionaries, or run the transformer.
SLOW_EXAMPLES = {
    "skdict.decomposition",
    "skdict.decomposition.architectures",
    "skdict.decomposition._amortisation",
    "skdict.decomposition._comparison",
    "skdict.decomposition._controls",
    "skdict.inspection.results._absorption",
    "skdict.inspection.structure._stability",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW_EXAMPLES)) for n in MODULES],
)
@pytest.mark.usefixtures("registered")
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0, f"{name}: {results}"
