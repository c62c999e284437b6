"""Edges of the package: device choice, arrays and tensors, module hooks, sklearn's internals."""
