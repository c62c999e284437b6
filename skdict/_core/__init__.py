"""The numerical core: torch only, knows nothing of scikit-learn."""
