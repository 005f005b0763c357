"""`python -m infra.cli`, from a checkout."""

from infra.cli.main import main

main()
