"""Understanding a model: one run on tensors without data, every operator heard, and a graph made of it."""
