"""Training after, and while, pruning.

finetune(model, loader)               a loop for whoever has none, with distillation and the best checkpoint
remap_optimizer(optimizer, model)     an optimizer that goes on with the momentum of what survived
distilling(model, teacher)            the same lesson inside transformers.Trainer, accelerate or a loop of your own
PruningCallback({1: {…}, 3: {…}}, x)  pruning inside transformers.Trainer, Lightning or another loop
"""

from secateur.torch.running.distributed import agree
from secateur.torch.training.callbacks import PruningCallback
from secateur.torch.training.config import FinetuneConfig
from secateur.torch.training.distillation import Distillation, logit_loss
from secateur.torch.training.distilling import distilling
from secateur.torch.training.finetune import FinetuneResult, finetune
from secateur.torch.training.optimizer import remap_optimizer

__all__ = [
    "Distillation",
    "FinetuneConfig",
    "FinetuneResult",
    "PruningCallback",
    "agree",
    "distilling",
    "finetune",
    "logit_loss",
    "remap_optimizer",
]
