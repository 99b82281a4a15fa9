"""How two networks are run beside each other and compared; `secateur.torch.verify` is the verb."""
