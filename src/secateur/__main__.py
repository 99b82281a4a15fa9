"""``python -m secateur``: the same as the ``secateur`` command."""

from secateur.cli.main import main

main()
