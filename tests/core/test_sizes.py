"""Sizes for people."""

import pytest

from skdict._core.sizes import size_of


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (11_520, "11.5 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (268_435_456, "268 MB"),
        (1.5e9, "1.5 GB"),
        (8.2e13, "82 TB"),
        (3e16, "30 PB"),
    ],
)
def test_three_digits_in_the_unit_that_fits(n_bytes, text):
    assert size_of(n_bytes) == text
