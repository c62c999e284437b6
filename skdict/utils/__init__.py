"""Edges of the package: device choice, arrays and tensors, files, sklearn's internals."""
