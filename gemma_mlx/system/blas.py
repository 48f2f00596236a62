"""Give MLX's Linux CPU build a fast BLAS.

The Linux wheel of MLX links an unoptimised reference BLAS. Symbols of a library that is already
in the process win over those of one loaded later, so a real BLAS opened globally before
`mlx.core` is imported takes over float32 matrix products (float16 and bfloat16 never reach BLAS).
"""

import ctypes
import os
import sys
from pathlib import Path

from gemma_mlx.errors import BackendError

_CANDIDATES = ("libopenblas.so.0", "libmkl_rt.so.2", "libmkl_rt.so.3", "libblis.so.4")


def _load() -> str | None:
    if not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return None
    chosen = os.environ.get("GEMMA_MLX_BLAS")
    if chosen == "none":
        return None
    # PyPI's `mkl` puts its libraries into the environment's own lib folder, off the search path.
    in_environment = [str(Path(sys.prefix) / "lib" / name) for name in _CANDIDATES]
    for name in [chosen] if chosen else [*_CANDIDATES, *in_environment]:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            if chosen:
                raise BackendError(f"GEMMA_MLX_BLAS={chosen} can't be loaded ({error})") from None
        else:
            return Path(name).name
    return None


#: File name of the BLAS library put under MLX, or None where MLX's own is used. The environment
#: variable GEMMA_MLX_BLAS names another one (a library name or path), or `none`.
BLAS: str | None = _load()
