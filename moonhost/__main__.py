"""``python -m moonhost`` is the same as ``moonhost``."""

from moonhost.cli import main

if __name__ == "__main__":
    main()
