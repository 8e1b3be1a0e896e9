"""``python -m llamaherd.cli``: the command line without the installed script."""

from llamaherd.cli import main

main()
