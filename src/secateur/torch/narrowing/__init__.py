"""Making tensors smaller: slices, side by side or in place, masks, and undoing all of it."""
