"""``python -m mepipe`` is ``mepipe``."""

from mepipe.cli import main

if __name__ == "__main__":  # spawned workers import this module and must not start a second command
    main()
