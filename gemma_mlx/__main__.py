"""`python -m gemma_mlx`."""

import sys

try:
    from gemma_mlx.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
