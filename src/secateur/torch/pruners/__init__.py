"""Objects that hold a model through several steps of pruning."""
