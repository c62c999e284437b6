"""Interrupts at every point of a function."""

import sys


def interrupted_at(n, function):
    """Call a function, with a KeyboardInterrupt at the n-th Python function that it enters.

    Return whether it enters that many.
    """
    entered = 0

    def profile(frame, event, arg):
        nonlocal entered
        if event == "call":
            entered += 1
            if entered == n:
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return entered >= n
