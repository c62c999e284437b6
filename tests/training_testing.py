"""Autoencoders in training, without an estimator."""

from skdict._core.coding import Encoder
from skdict._core.data.shuffle import permuted_batches


def train(training, schedule, x, *, n_passes, batch_size):
    """Plain epochs over the rows of x."""
    for _ in range(n_passes):
        for batch in permuted_batches(len(x), batch_size, training.generator):
            training.step(x[batch], schedule)


def codes_of(autoencoder, x):
    """Dense codes of x (B, n_features) by the folded encoder, as an estimator finds them."""
    rule = autoencoder.architecture
    encoder = Encoder(*autoencoder.folded(), rule.n_largest, rule.selection)
    return encoder(x - autoencoder.intercept.detach()).dense()
