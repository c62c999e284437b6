"""The fields of files of JSON, which may be damaged or hostile."""

import re


class Fields:
    """Values of an object of JSON, each of which is checked when it is taken.

    Parameters
    ----------
    value : object
    where : str
        The file, and where in it, for errors.
    hint : str, default=""
        What to do about an error.
    """

    def __init__(self, value, where, hint=""):
        self.value, self.where, self._hint = value, where, f" {hint}".rstrip()
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object, not {short(value)}.{self._hint}")

    def take(self, name):
        """Any value."""
        if name not in self.value:
            raise ValueError(f"{self.where} has no field {name!r}.{self._hint}")
        return self.value[name]

    def integer(self, name, least, most):
        value = self.take(name)
        if type(value) is not int or not least <= value <= most:
            raise self._bad(name, f"an integer from {least} to {most}")
        return value

    def number(self, name):
        """A number that is not negative."""
        value = self.take(name)
        if type(value) not in (int, float) or not 0 <= value < 1e300:
            raise self._bad(name, "a number of at least 0")
        return float(value)

    def text(self, name, pattern):
        value = self.take(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self._bad(name, f"text like {pattern}")
        return value

    def of_type(self, name, kind):
        """A value of a type, and not of one below it."""
        value = self.take(name)
        if type(value) is not kind:
            raise self._bad(name, f"of type {kind.__name__}")
        return value

    def inner(self, name):
        """The fields of an object inside."""
        return Fields(self.take(name), f"{self.where}, field {name!r}", self._hint.lstrip())

    def only(self, *names):
        """Refuse other fields than these."""
        for name in self.value:
            if name not in names:
                raise ValueError(
                    f"{self.where} has a field {name!r:.60} that is not known.{self._hint}"
                )

    def _bad(self, name, wanted):
        found = short(self.value[name])
        return ValueError(f"{self.where}: {name!r} must be {wanted}, not {found}.{self._hint}")


def short(value):
    """The beginning of how a value is written, for errors."""
    return f"{value!r:.60}"
