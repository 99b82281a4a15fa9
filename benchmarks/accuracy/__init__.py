"""Accuracy at equal cost, Secateur's modes beside other tools: one trained network, one budget, one fine-tune."""
