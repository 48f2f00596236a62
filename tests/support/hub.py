"""What the Hugging Face hub's client raises."""

import sys


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    # The hub client's HTTP library is httpx, or a later one of another name.
    http = sys.modules[errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0]]
    if not hasattr(errors, kind):
        return getattr(http, kind)("no route")
    request = http.Request("GET", "https://hub")
    return getattr(errors, kind)("refused", response=http.Response(403, request=request))
