"""Names under which users find what implements a noun."""


class Registry(dict):
    """A dict from names to classes, to which a decorator adds.

    Parameters
    ----------
    noun : str
        What is registered, for the message when a name is taken.
    """

    def __init__(self, noun):
        super().__init__()
        self.noun = noun

    def register(self, name):
        """Decorator that makes a class known by a name, which becomes its attribute ``name``."""

        def add(cls):
            known = self.get(name)
            # a class that is defined once more, in a notebook, replaces its former self
            if known is not None and _place(known) != _place(cls):
                raise ValueError(
                    f"The {self.noun} named {name!r} exists already ({known.__qualname__}). "
                    "Register this one under another name."
                )
            cls.name = name
            self[name] = cls
            return cls

        return add


def _place(cls):
    return cls.__module__, cls.__qualname__
