"""How good a network is: scores, metrics, and many candidates at once."""
