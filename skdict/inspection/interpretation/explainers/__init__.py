"""Who explains features: a language model, or rules."""
