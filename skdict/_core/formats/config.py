"""Configurations of saved dictionaries, of which each key is asked for."""

import json
import re

import numpy as np

from .tensors import FormatError

# Keys of a configuration that are likely to decide codes. One of these that a format does not know
# is refused, as to leave it out might give other codes; all others are kept as provenance.
DECIDES_CODES = re.compile(
    r"activat|act_fn|relu|norm|scal|bias|thresh|sign|gat(e|ing)|top_?k|skip|transcod|offset"
    r"|multipl|tanh|glu|center|centre|whiten|nonlin|temperature|attn|attention"
)


class Config:
    """A configuration, of which each key is asked for; what nobody has asked for is told.

    Parameters
    ----------
    value : dict
    where : str
        Its file, in errors.
    """

    def __init__(self, value, where):
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise FormatError(f"{where} must hold names with values, but holds a {kind}.")
        self.value, self.where = value, where
        self._asked, self._harmless = set(), set()

    def __contains__(self, key):
        return key in self.value

    def get(self, key, default=None, kinds=None):
        """The value of a key.

        Parameters
        ----------
        key : str
        default : object
            Where there is no such key, or it is None.
        kinds : type or tuple of type, default=None
            What it has to be; None is anything. A float may be written as an int, and a bool is
            no number.

        Returns
        -------
        value : object
        """
        self._asked.add(key)
        value = self.value.get(key)
        if value is None:
            return default
        if kinds is not None:
            kinds = kinds if isinstance(kinds, tuple) else (kinds,)
            if type(value) is int and abs(value) >= 2**63:
                raise FormatError(f"{self.where}: {key!r} is a number with too many digits.")
            if float in kinds and type(value) is int:
                value = float(value) if abs(value) < 2**53 else value
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise FormatError(f"{self.where}: {key!r} must be {expected}, not {value!r}.")
            if isinstance(value, float) and not np.isfinite(value):
                raise FormatError(f"{self.where}: {key!r} must be finite, not {value!r}.")
        return value

    def need(self, key, kinds=None):
        """As `get`, but the key has to be there.

        Parameters
        ----------
        key : str
        kinds : type or tuple of type, default=None

        Returns
        -------
        value : object
        """
        value = self.get(key, kinds=kinds)
        if value is None:
            raise FormatError(
                f"{self.where} has no {key!r}, which this format needs; it has "
                f"{shorten(list(self.value))}."
            )
        return value

    def count(self, key, default=None):
        """An integer of at least 1.

        Parameters
        ----------
        key : str
        default : int or None

        Returns
        -------
        value : int or None
        """
        value = self.get(key, default, kinds=int)
        if value is not None and value < 1:
            raise FormatError(f"{self.where}: {key!r} must be at least 1, not {value!r}.")
        return value

    def choice(self, key, choices, default=None):
        """One of some values; the default is None: the key has to be there.

        Parameters
        ----------
        key : str
        choices : iterable of str
        default : str or None

        Returns
        -------
        value : str
        """
        value = self.need(key, str) if default is None else self.get(key, default, kinds=str)
        if value not in choices:
            raise FormatError(
                f"{self.where}: {key}={value!r} cannot be expressed here. Known are "
                f"{', '.join(map(repr, choices))}."
            )
        return value

    def part(self, key):
        """A configuration inside of this one; an empty one if there is none.

        Parameters
        ----------
        key : str

        Returns
        -------
        config : Config
        """
        return Config(self.get(key, {}), f"{self.where}: {key}")

    def expect(self, key, *values):
        """Refuse a key that has another value than those that change nothing.

        Parameters
        ----------
        key : str
        *values : object
        """
        value = self.get(key)
        if value is not None and value not in values:
            raise FormatError(f"{self.where}: {key}={value!r} cannot be expressed here.")

    def harmless(self, *keys):
        """Keys that are known, and do not matter for codes: they are kept as provenance.

        Parameters
        ----------
        *keys : str
        """
        self._harmless.update(keys)

    def provenance(self):
        """What was not asked for, to be kept; an error if a key may decide codes.

        Returns
        -------
        kept : dict
        """
        left = {key: value for key, value in self.value.items() if key not in self._asked}
        for key, value in left.items():
            is_known = key in self._harmless or value in (None, False, "none")
            if is_known or not DECIDES_CODES.search(str(key).lower()):
                continue
            raise FormatError(
                f"{self.where}: {key}={value!r} is not known here, and may change the codes. If "
                "it does not, remove it from a copy of the file."
            )
        return left


def parse_json(text, where):
    """What a text of JSON says; `where` names it in errors."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"{where} is no valid JSON: {error}.") from None


def shorten(names, most=12):
    """A list of names as text, of the first of them if there are many."""
    listed = ", ".join(map(str, names[:most]))
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed or "nothing"
