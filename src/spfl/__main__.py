"""`python -m spfl`: the command line."""

from spfl.cli import main

main()
