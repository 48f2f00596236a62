"""What can be captured in one layer, and under which key the seed's npz files hold it."""

from dataclasses import dataclass
from typing import Literal

from gemma_mlx.config import GemmaConfig
from gemma_mlx.errors import RequestError

Width = Literal["hidden", "intermediate", "keys"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a transformer block.

    `width` says how many features it has: the hidden size, the MLP's intermediate size, or one
    per key for `attn_pattern`, which is (heads, keys) and grows with every step.
    """

    name: str
    description: str
    width: Width
    npz_suffix: str

    def npz_key(self, layer: int) -> str:
        """Key of this site in the seed's `activations_step_<N>.npz`."""
        return f"model.layers.{layer}.{self.npz_suffix}"

    def features(self, config: GemmaConfig) -> int:
        """Features per token, for the sites that have a fixed number of them."""
        if self.width == "keys":
            raise RequestError(f"site {self.name!r} has no fixed width: one weight per key")
        return config.hidden_size if self.width == "hidden" else config.intermediate_size


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("resid_pre", "residual stream before the block", "hidden", "resid_pre"),
        Site("attn_out", "attention output, before its post-norm", "hidden", "self_attn.output"),
        Site("attn_pattern", "attention weights after softmax", "keys", "self_attn.weights"),
        Site("resid_mid", "residual stream between attention and MLP", "hidden", "resid_mid"),
        Site("mlp_post", "gated MLP activation", "intermediate", "mlp.gate_up_product"),
        Site("mlp_out", "MLP output, before its post-norm", "hidden", "mlp.output"),
        Site("mlp_out_normed", "MLP output after its post-norm", "hidden", "mlp.output_normed"),
        Site("resid_post", "residual stream after the block", "hidden", "resid_post"),
    )
}


def site(name: str) -> Site:
    """The site called `name`; a `RequestError` lists the sites there are."""
    try:
        return SITES[name]
    except KeyError:
        raise RequestError(f"unknown site {name!r}; the sites are {', '.join(SITES)}") from None
