"""``python -m mpnn`` is the command ``mpnn``."""

from mpnn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
