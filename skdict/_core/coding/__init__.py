"""Coders: whatever finds the codes of samples in a given dictionary."""
