"""`python -m metatext` is the `metatext` command."""

from metatext.cli import main

if __name__ == "__main__":
    main()
