"""`python -m splitcom` is `splitcom`."""

from splitcom.cli import main

main()
