"""``python -m sgool``: the command line of the sgool that this Python imports."""

from sgool.cli import main

if __name__ == "__main__":
    main()
