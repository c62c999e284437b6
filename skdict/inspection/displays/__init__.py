"""Matplotlib displays, one a file."""
