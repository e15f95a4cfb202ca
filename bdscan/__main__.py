"""`python -m bdscan` and the console script."""

from __future__ import annotations

from bdscan.cli import main

if __name__ == "__main__":
    main()
