"""Ways to ask a language model."""
