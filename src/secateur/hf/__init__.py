"""Checkpoints of Hugging Face: written so that anybody can load them, wherever a configuration can say what is left.

secateur.hf.save_pretrained(model, "small/")        one size a stack: an ordinary checkpoint
                                                    each layer its own: an artefact of ours, said in one sentence
model = secateur.hf.from_pretrained("small/")       loads either
"""

from secateur.hf.checkpoints import from_pretrained, save_pretrained

__all__ = ["from_pretrained", "save_pretrained"]
