"""Explanations of features in words, and scores of the explanations."""
