"""Training after and while pruning.

    finetune(model, loader)               a loop for whoever has none, with distillation and the best checkpoint
    remap_optimizer(optimizer, model)     an optimizer that goes on with the momentum of what survived
    PruningCallback({1: {…}, 3: {…}}, x)  pruning inside transformers.Trainer, Lightning or another loop

Invariant: none of it decides what to prune; it trains what `prune` left, or calls `prune`.
"""
