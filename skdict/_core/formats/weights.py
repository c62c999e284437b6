"""A dictionary in the terms of the library that wrote it, and what it is in ours.

    x̃ = normalised(x) s_in - offset;   p = f (x̃ W) + c;   z = what is selected of p
    x̂ = (z D + b) / s_out

Here rows of D have any norm, and what is selected may depend on it. All factors are folded into
float32 tensors in float64, a block of rows at a time, so that each number is rounded once.
"""

from dataclasses import dataclass, field

import torch

from ..coding import Encoder
from ..dictionary import Dictionary
from ..normalization import RowNormalization
from .tensors import FormatError

# Rows of a matrix that are folded at a time hold about so many numbers.
N_FOLDED = 1 << 22
# Norms of decoder rows that differ from 1 by less are those of unit rows that were rounded.
UNIT = 1e-6


@dataclass
class Weights:
    """What a file says, as tensors of any floating-point dtype.

    Parameters
    ----------
    encoder : tensor of shape (n_components, n_inputs)
        W transposed. It may be a view.
    encoder_bias : tensor of shape (n_components,) or None
        c.
    encoder_factor : tensor of shape (n_components,) or None
        f; None is 1.
    decoder : tensor of shape (n_components, n_features)
        D.
    decoder_bias : tensor of shape (n_features,) or None
        b.
    offset : tensor of shape (n_inputs,) or None
        What is subtracted from the (normalised and scaled) input before the encoder. Most
        libraries that do so subtract b: give the same tensor.
    threshold : tensor of shape (n_components,), float or None
        θ; None is 0.
    keeps_equal : bool
        Whether p = θ is active too.
    k : int or None
        How many entries are kept.
    selection : str
        As of `Encoder`.
    ranks_by_norm : bool
        Whether p ‖D_j‖ is compared and ranked instead of p. Codes are p.
    scales_by_norm : bool
        Whether the encoder gives p n_j, and codes are divided by n_j before they are decoded,
        where n_j = ‖D_j / s_out‖.
    decoder_factor : tensor of shape (n_components,) or None
        Codes are multiplied by it before they are decoded.
    input_scale, output_scale : float, or tensor of shape (n_inputs,) and (n_features,)
        s_in and s_out, of all columns or of each. By None the latter is the former.
    normalization : RowNormalization or None
    skip : tensor of shape (n_features, n_inputs) or None
        What is added to the reconstruction: x @ skip.T, of x as it is given.
    is_transcoder : bool
        Whether what is reconstructed is another activation than the one that is read.
    """

    encoder: torch.Tensor
    encoder_bias: torch.Tensor | None
    decoder: torch.Tensor
    decoder_bias: torch.Tensor | None = None
    offset: torch.Tensor | None = None
    threshold: torch.Tensor | float | None = None
    keeps_equal: bool = False
    k: int | None = None
    selection: str = "positive"
    ranks_by_norm: bool = False
    scales_by_norm: bool = False
    encoder_factor: torch.Tensor | None = None
    decoder_factor: torch.Tensor | None = None
    input_scale: torch.Tensor | float = 1.0
    output_scale: torch.Tensor | float | None = None
    normalization: RowNormalization | None = None
    skip: torch.Tensor | None = None
    is_transcoder: bool = False
    _norms: torch.Tensor | None = field(default=None, repr=False)

    def dictionary(self, *, units="source", dtype=torch.float32, where="the file"):
        """The dictionary, with unit atoms.

        Parameters
        ----------
        units : {"source", "unit"}
            Of the codes: as the library has them, or such that unit atoms times codes add up to
            the row.
        dtype : torch.dtype
        where : str
            What it is from, in errors.

        Returns
        -------
        dictionary : Dictionary
        """
        n, d = self.encoder.shape
        self._check_shapes(n, d, where)
        scale = torch.as_tensor(
            self.input_scale, dtype=torch.float64, device="cpu"
        )  # () or (n_inputs,)
        out = self.input_scale if self.output_scale is None else self.output_scale
        out = torch.as_tensor(out, dtype=torch.float64, device="cpu")  # () or (n_features,)
        raw = row_norms(self.decoder)  # (n,), float64
        to_encoder, to_bias = torch.ones_like(raw), torch.ones_like(raw)
        to_threshold, of_decoder = torch.ones_like(raw), torch.ones_like(raw)
        own = raw / out if out.dim() == 0 else row_norms(self.decoder, 1 / out)
        divisor = None
        if self.encoder_factor is not None:
            to_encoder *= self.encoder_factor.double()
        if self.decoder_factor is not None:
            of_decoder *= self.decoder_factor.double()
        if self.scales_by_norm:  # codes are p n: folded into the encoder
            to_encoder, to_bias = to_encoder * own, to_bias * own
            of_decoder /= _or_one(own)
        elif self.ranks_by_norm and self.k is None:  # p n > θ where p > θ / n, and never if n = 0
            to_encoder, to_bias = to_encoder * (raw > 0), to_bias * (raw > 0)
            to_threshold /= _or_one(raw)
        elif self.ranks_by_norm:
            to_encoder, to_bias, divisor = to_encoder * raw, to_bias * raw, _or_one(raw)
        norms = of_decoder.abs() * own
        # a negative factor turns the atom around
        components = _scaled(self.decoder, of_decoder / _or_one(norms), 1 / out, dtype)
        if units == "unit":
            if self.k is None:
                factor = norms
                to_encoder, to_bias = to_encoder * factor, to_bias * factor
                to_threshold = to_threshold * factor
            elif not _is_unit(norms):
                divisor = (1 if divisor is None else divisor) / _or_one(norms)
            norms = torch.ones_like(norms)
        bias = 0 if self.encoder_bias is None else self.encoder_bias.double()
        zeros = torch.zeros(self.decoder.shape[1], dtype=torch.float64, device="cpu")
        intercept = zeros if self.decoder_bias is None else self.decoder_bias.double() / out
        encoder = Encoder(
            _scaled(self.encoder, to_encoder, scale, dtype),
            (to_bias * bias).to(dtype),
            self._threshold(to_threshold, dtype),
            self.k,
            self.selection,
            None if divisor is None else divisor.to(dtype),
        )
        intercept = intercept.to(dtype)
        return Dictionary(
            components,
            intercept,
            encoder,
            offset=self._offset(intercept, dtype),
            norms=None if _is_unit(norms) else norms.to(dtype),
            normalization=self.normalization,
            skip=None if self.skip is None else self.skip.to(dtype, copy=True).contiguous(),
            is_transcoder=self.is_transcoder,
        )

    def _offset(self, intercept, dtype):
        """What is subtracted from the input in its own units; None if that is the intercept."""
        if self.offset is None:
            offset = torch.zeros(self.encoder.shape[1], dtype=dtype, device="cpu")
        else:
            scale = torch.as_tensor(self.input_scale, dtype=torch.float64, device="cpu")
            offset = (self.offset.double() / scale).to(dtype)
        return None if torch.equal(offset, intercept) and not self.is_transcoder else offset

    def _threshold(self, factor, dtype):
        if self.threshold is None:
            return None
        threshold = torch.as_tensor(self.threshold, dtype=torch.float64, device="cpu") * factor
        if self.selection == "positive":  # a negative entry of the code is none
            threshold = threshold.clamp_min(0)
        threshold = threshold.to(dtype)
        if self.keeps_equal:
            below = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
            threshold = torch.where(threshold > 0, below, threshold)
        return threshold

    def _check_shapes(self, n, d, where):
        n_features = self.decoder.shape[1]
        expected = {
            "encoder_bias": (n,),
            "encoder_factor": (n,),
            "decoder": (n, n_features),
            "decoder_bias": (n_features,),
            "offset": (d,),
            "decoder_factor": (n,),
            "skip": (n_features, d),
        }
        for name, shape in expected.items():
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != shape:
                raise FormatError(
                    f"{where}: {name} has shape {tuple(part.shape)}, expected {shape} beside an "
                    f"encoder of {n} latents of {d} columns."
                )
        threshold = self.threshold
        if torch.is_tensor(threshold) and tuple(threshold.shape) not in ((), (n,)):
            raise FormatError(
                f"{where}: the threshold has shape {tuple(threshold.shape)}, expected ({n},)."
            )
        if n_features != d and not self.is_transcoder:
            raise FormatError(
                f"{where}: the encoder reads {d} columns, and the decoder writes {n_features}."
            )
        if self.k is not None and not 1 <= self.k <= n:
            raise FormatError(f"{where}: k={self.k} must be between 1 and {n}, the latents.")


def row_norms(matrix, columns=1.0):
    """Norms of rows (n, d) in float64, without a copy of the matrix: (n,).

    `columns` (d,) is what their entries are multiplied by before.
    """
    chunks = matrix.split(_rows_at_a_time(matrix))
    of = torch.linalg.vector_norm
    return torch.cat([of(chunk.double() * columns, dim=1) for chunk in chunks])


def _scaled(matrix, rows, columns, dtype):
    """A matrix whose rows and columns are multiplied by factors (n,) and (d,) or ().

    Computed in float64 and rounded once: a new matrix in C order.
    """
    out = torch.empty(matrix.shape, dtype=dtype, device="cpu")
    n_rows = _rows_at_a_time(matrix)
    for start in range(0, len(matrix), n_rows):
        part = slice(start, start + n_rows)
        out[part] = rows[part, None] * matrix[part].double() * columns
    return out


def _rows_at_a_time(matrix):
    return 1 + N_FOLDED // max(1, matrix.shape[1])


def _or_one(norms):
    """Norms to divide by: of rows of zeros 1."""
    return torch.where(norms > 0, norms, 1)


def _is_unit(norms):
    return bool(((norms - 1).abs() <= UNIT).all())
