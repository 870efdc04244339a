"""The laboratory: a small model, a real corpus, runs and their results."""
