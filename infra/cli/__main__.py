"""`python -m infra.cli`, from a checkout."""

from infra.cli.main import main

if __name__ == "__main__":
    main()
