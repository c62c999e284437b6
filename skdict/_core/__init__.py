"""The engine: numerical core and language models, knows nothing of scikit-learn."""
