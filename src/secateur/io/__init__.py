"""Artefact folders: `save` a narrowed model, `restore` it onto its original architecture."""
