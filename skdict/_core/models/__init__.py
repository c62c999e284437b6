"""Models with parameters that are learned, and the architectures of the autoencoder."""
