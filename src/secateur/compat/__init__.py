"""The words of other tools, read into ours: NVIDIA ModelOpt, NNI and Kenning, Vitis AI and UIF, torch.ao.

secateur.compat.modelopt.prune(…)     secateur.compat.nni.activation(model, …)     secateur.compat.uif.get_pruning_runner(…)
secateur.compat.torch_ao.BaseStructuredSparsifier
"""

from secateur.compat import modelopt, nni, torch_ao, uif

__all__ = ["modelopt", "nni", "torch_ao", "uif"]
