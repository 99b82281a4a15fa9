"""Pages that stand at the root of the repository, brought into the site with their links turned round.

Invariant: nothing is written into `docs/`.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=_seen_from_docs((ROOT / path).read_text("utf-8"))))
    return files


def _seen_from_docs(text: str) -> str:
    """Links into ``docs/`` made relative to it; those to code are left as words."""
    text = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)
    for name, path in PAGES.items():
        text = text.replace(f"]({path})", f"]({name})")
    return re.sub(r"\[([^\]]+)\]\((?:examples|tests|benchmarks|scripts)/[^)]+\)", r"\1", text)
