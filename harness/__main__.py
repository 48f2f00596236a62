"""`python -m harness`."""

import sys

try:
    from harness.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
