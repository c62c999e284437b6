"""Where features are active, once: the codes of a corpus with its tokens."""
