"""`python -m spfl`: the command line."""

from spfl.cli.commands import main

main()
