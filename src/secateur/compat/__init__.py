"""The words of other tools, read into ours: NVIDIA ModelOpt, NNI and Kenning, Vitis AI and UIF.

secateur.compat.modelopt.prune(…)     secateur.compat.nni.activation(model, …)     secateur.compat.uif.get_pruning_runner(…)
"""

from secateur.compat import modelopt, nni, uif

__all__ = ["modelopt", "nni", "uif"]
