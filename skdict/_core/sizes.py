"""Sizes in bytes, for people."""


def size_of(n_bytes):
    """A number of bytes with three digits, in the unit that fits.

    Parameters
    ----------
    n_bytes : float

    Returns
    -------
    text : str
        Such as "268 MB".
    """
    size, unit = n_bytes, "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
