"""Activations on their way to a solver: read, checked, measured, shuffled, standardised."""
