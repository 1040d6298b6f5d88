"""`python -m metatext` is the `metatext` command."""

from metatext.cli.main import main

if __name__ == "__main__":
    main()
