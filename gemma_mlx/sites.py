"""What can be captured in one layer, and under which key the npz files hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gemma_mlx.errors import RequestError

if TYPE_CHECKING:  # Importing it takes longer than everything here.
    from gemma_mlx.config import GemmaConfig


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a transformer block.

    Attributes:
        name: what it is called in every call, option and file.
        description: what is found there.
        width: how many features a token has there: the config's hidden or intermediate size, or
            "keys" for one weight per head and key, which are more with every token.
        npz_suffix: the end of `npz_key`.
    """

    name: str
    description: str
    width: Literal["hidden", "intermediate", "keys"]
    npz_suffix: str

    @property
    def is_vector(self) -> bool:
        """Whether a token has one vector here, of the same width for every token."""
        return self.width != "keys"

    def npz_key(self, layer: int) -> str:
        """Key of this site in the original project's `activations_step_<N>.npz`."""
        return f"model.layers.{layer}.{self.npz_suffix}"

    def features(self, config: GemmaConfig) -> int:
        """Width of a token's vector.

        Raises:
            RequestError: the site has no vectors.
        """
        if not self.is_vector:
            raise RequestError(f"site {self.name!r} has no fixed width: one weight per key")
        return config.hidden_size if self.width == "hidden" else config.intermediate_size


#: All sites by name, in the order in which a block computes them.
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

#: Names of the sites where a token has a vector: those that can be compared between conditions,
#: intervened on and written to npz files.
VECTOR_SITES: tuple[str, ...] = tuple(name for name, site in SITES.items() if site.is_vector)

#: What other architectures have beside them, and Gemma 2 and 3 don't.
OTHER_SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            "experts_out", "routed experts' output beside the dense MLP", "hidden", "experts.output"
        ),
        Site(
            "per_layer_out",
            "what the per-layer inputs add to the residual stream",
            "hidden",
            "per_layer_input.output",
        ),
    )
}


def find_site(name: str) -> Site:
    """The site called `name`.

    Raises:
        RequestError: no such site; the message lists those there are.
    """
    try:
        return SITES[name]
    except KeyError:
        raise RequestError(f"unknown site {name!r}; the sites are {', '.join(SITES)}") from None
