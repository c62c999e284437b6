"""Bodies that are made of other operations, whatever the device carries those out with."""

from .operations import sampled_product, weighted_sums


def residual_products(target, values, support, table):
    residual = target - weighted_sums(values, support, table)
    return residual, sampled_product(residual, table, support)
