"""How often and how strongly a feature is active."""


def gather(context):
    """Density, number of active rows, maximum, mean if active, and a histogram to the maximum."""
    found = context.statistics
    return {
        "density": found.density,
        "n_active": found.n_active,
        "maximum": found.maximum,
        "mean": found.mean,
        "histogram": context.histogram,
    }
