"""What features do to the model: interventions, effects, logits, steering."""
