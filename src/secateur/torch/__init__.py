"""The PyTorch front-end. Flat here are the verbs: trace, plan, apply, verify, prune, measure; their rooms are beside them."""
