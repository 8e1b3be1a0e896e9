"""``python -m llamaherd.cli``: the command line without its script."""

from llamaherd.cli import main

main()
