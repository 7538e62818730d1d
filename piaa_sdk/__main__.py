"""``python -m piaa_sdk``: the same as the command ``piaa``."""

from __future__ import annotations

from piaa_sdk.cli import main

if __name__ == "__main__":
    main()
