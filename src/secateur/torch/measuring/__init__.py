"""What criteria measure with: weights and gradients by unit, activations where they are read, sums over batches."""
