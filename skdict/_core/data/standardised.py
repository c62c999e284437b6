"""Activations brought to a common place and scale, and results back to the units of the data."""


class Standardised:
    """The rows of a source as (x - mean) / scale, and the way back to the units of the data.

    Parameters
    ----------
    source : Source
    mean : tensor of shape (n_features,)
        In the dtype and on the device of the source.
    scale : float
        Brings the rows to E‖x‖² = n_features, so that one learning rate serves every layer of
        every model. Codes, alpha and the encoder's biases scale with it, the objective with its
        square.
    """

    def __init__(self, source, mean, scale):
        self.source = source
        self.mean = mean
        self.scale = scale

    def __len__(self):
        return len(self.source)

    @property
    def shape(self):
        return self.source.shape

    @property
    def n_features(self):
        return self.source.n_features

    @property
    def dtype(self):
        return self.source.dtype

    def __getitem__(self, index):
        """Standardised rows given as `Source.__getitem__` wants them."""
        return self.standardise(self.source[index])

    def batches(self, batch_size, generator=None, **part):
        """The standardised rows of one epoch in batches, as `Source.batches`."""
        batches = self.source.batches(batch_size, generator, **part)
        return (self.standardise(x) for x in batches)

    def draw(self, n_rows, generator):
        """Standardised rows drawn without replacement, as `Source.draw`."""
        return self.standardise(self.source.draw(n_rows, generator))

    def standardise(self, x):
        """Points in the units of the data, (..., n_features), to standardised ones."""
        return (x - self.mean) / self.scale

    def to_data_units(self, x):
        """Undo `standardise`."""
        return self.mean + self.scale * x
