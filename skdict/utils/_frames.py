"""Tables of results: DataFrames where pandas is installed."""

from .._core.optional import is_missing
from ._warnings import warn


def as_frame(columns):
    """Columns, ndarrays by name, as a DataFrame, or as they are where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError as error:
        if not is_missing(error, "pandas"):
            warn(f"The table is a dict: pandas is there but cannot be imported ({error}).")
        return columns
    return pd.DataFrame(columns)
