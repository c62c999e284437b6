"""What activates features: examples, statistics, labels, detectors."""
