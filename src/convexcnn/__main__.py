"""`python -m convexcnn`, the same as the `convexcnn` command."""

from __future__ import annotations

from convexcnn.cli import main

if __name__ == "__main__":
    main()
