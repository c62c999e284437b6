"""Hyper-parameters: read, set, compared, shown and cloned as scikit-learn does it."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from skdict._core.parameters import Parameterized, is_count, is_number


class Toy(Parameterized):
    def __init__(self, size=1, *, names=("a", "b")):
        self.size = size
        self.names = names


class Other(Toy):
    pass


def test_parameters_are_those_of_the_constructor_untouched():
    names = ["x"]
    toy = Toy(3, names=names)
    assert toy.get_params() == toy.get_params(deep=False) == {"size": 3, "names": ["x"]}
    assert toy.get_params()["names"] is names
    assert Parameterized().get_params() == {}


def test_set():
    toy = Toy()
    assert toy.set_params(size=5, names=()) is toy
    assert toy.get_params() == {"size": 5, "names": ()}
    with pytest.raises(ValueError, match=r"'sizes' for Toy\(size=5, .*Valid .*'size', 'names'"):
        toy.set_params(sizes=3)


@pytest.mark.parametrize("copied", [clone, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_equal_and_independent(copied):
    toy = Toy(3)
    other = copied(toy)
    assert other is not toy
    assert other == toy
    other.set_params(size=4)
    assert other != toy
    assert toy.size == 3


def test_equal_are_those_of_one_class_with_the_same_parameters():
    assert Toy(2) == Toy(2, names=("a", "b"))
    assert Toy(2) != Toy(2, names=("a",))
    assert Toy() != Other()
    assert Toy() != "Toy()"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Toy())


def test_repr_shows_what_is_not_at_its_default():
    assert repr(Toy()) == "Toy()"
    assert repr(Toy(2)) == "Toy(size=2)"
    assert repr(Other(names="a")) == "Other(names='a')"


def test_parameters_need_names():
    class Bad(Parameterized):
        def __init__(self, **others):
            self.others = others

    with pytest.raises(TypeError, match=r"Bad.__init__ takes \*\*others.* Write them out"):
        Bad(a=1).get_params()


def test_require():
    toy = Toy(size=-1)
    toy.require("size", True, "anything")
    with pytest.raises(ValueError, match=r"The 'size' parameter of Toy must be big. Got -1"):
        toy.require("size", False, "big")


@pytest.mark.parametrize("value", [True, "1", None, 1j, np.bool_(True)])
def test_what_is_no_number(value):
    assert not is_number(value)
    assert not is_count(value)


def test_numbers():
    for value in (1, 0.5, np.float32(2), np.int64(3), float("nan")):
        assert is_number(value)
    assert is_count(1)
    assert is_count(np.int32(2))
    for value in (0, -1, 1.0, float("nan")):
        assert not is_count(value)
