"""What training may not change: atoms or encoder directions, held where they began.

These are the controls of "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?"
(arXiv:2602.14111): a dictionary that has learned everything but its directions.
"""

import math

import torch

from ..optim import normalize_

# The least cosine of an atom that is softly frozen with its start, as in the paper.
SOFT_COSINE = 0.8


def _decoder(autoencoder, start):
    autoencoder.dictionary.copy_(start)


def _soft_decoder(autoencoder, start):
    atoms = autoencoder.dictionary
    cosine = torch.linalg.vecdot(atoms, start)[:, None]
    across = normalize_(atoms - cosine * start)
    nearest = normalize_(SOFT_COSINE * start + math.sqrt(1 - SOFT_COSINE**2) * across)
    atoms.copy_(torch.where(cosine < SOFT_COSINE, nearest, atoms))


def _encoder(autoencoder, start):
    weight = autoencoder.encoder_weight
    scale = torch.linalg.vecdot(weight, start)[:, None].clamp_min(0)
    weight.copy_(scale * start)


HELD = {"decoder": _decoder, "soft_decoder": _soft_decoder, "encoder": _encoder}


class Holding:
    """Puts a part of an autoencoder back to where it may be, after each step.

    Parameters
    ----------
    name : {"decoder", "soft_decoder", "encoder"}
        Atoms that stay as they are, to the last bit; atoms that keep a cosine of `SOFT_COSINE`
        with their start; encoder rows that keep their direction. The norm of these is learned: as
        atoms have unit norm, nothing else could say how large a code is.
    autoencoder : Autoencoder
        At its start, where encoder rows have the directions of the atoms.
    """

    def __init__(self, name, autoencoder):
        self.start = autoencoder.dictionary.detach().clone()
        self._put_back = HELD[name]

    @torch.no_grad()
    def put_back(self, autoencoder):
        """Undo what the step should not have done."""
        self._put_back(autoencoder, self.start)
