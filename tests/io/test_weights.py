"""What other libraries' parameters become, against their equations in float64."""

import numpy as np
import pytest
import torch

from skdict._core.formats import Weights


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("units", ["source", "unit"])
@pytest.mark.parametrize("n_scales", [1, 6])
def test_factors_of_rows_and_columns(units, n_scales):
    generator = torch.Generator().manual_seed(0)
    W, D = normal(generator, 9, 6), normal(generator, 9, 6)
    c, b, offset = normal(generator, 9), normal(generator, 6), normal(generator, 6)
    f, g = normal(generator, 9).exp(), normal(generator, 9)
    s_in, s_out = normal(generator, n_scales).exp(), normal(generator, n_scales).exp()
    threshold = torch.rand(9, generator=generator)
    dictionary = Weights(
        W,
        c,
        D,
        b,
        offset,
        threshold,
        encoder_factor=f,
        decoder_factor=g,
        input_scale=s_in if n_scales > 1 else float(s_in),
        output_scale=s_out if n_scales > 1 else float(s_out),
    ).dictionary(units=units)
    x = normal(generator, 50, 6)
    codes = dictionary.coder("encoder")(x)

    p = f * ((x.double() * s_in - offset) @ W.double().T) + c
    expected = np.where(p > threshold, p.clamp_min(0), 0)
    rows = g[:, None].double() * D / s_out
    if units == "unit":
        np.testing.assert_allclose(
            codes.dense().numpy(), expected * rows.norm(dim=1).numpy(), rtol=2e-5, atol=2e-6
        )
    else:
        np.testing.assert_allclose(codes.dense().numpy(), expected, rtol=2e-5, atol=2e-6)
    assert np.array_equal(codes.dense().numpy() != 0, expected != 0)
    np.testing.assert_allclose(
        dictionary.reconstruct(x, codes).numpy(),
        expected @ rows.numpy() + (b / s_out).numpy(),
        rtol=2e-5,
        atol=1e-5,
    )
    norms = dictionary.components.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(9), rtol=0, atol=2e-6)
