"""``python -m rshell.cli``: the same as the ``rshell`` command."""

from rshell.cli.main import main

main()
