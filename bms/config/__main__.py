"""Prints docs/reference/config.md."""

import sys

from .reference import reference

__all__: list[str] = []

if __name__ == "__main__":
    sys.stdout.write(reference())
