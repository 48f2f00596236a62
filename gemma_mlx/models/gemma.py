"""The text models Gemma 3 (Gemma Team 2025, arXiv:2503.19786) and Gemma 2 (Gemma Team 2024,
arXiv:2408.00118) as MLX modules.

Module and parameter names are those of the Hugging Face checkpoints. Every block calls a hook at
every site of `gemma_mlx.sites` and goes on with what the hook returns: capture returns what it was
given, an intervention returns something else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gemma_mlx.cache import BatchCache, LayerCache
from gemma_mlx.config import GemmaConfig, Rope
from gemma_mlx.models.activation import gated_gelu
from gemma_mlx.ranks import ALONE, Ranks
from gemma_mlx.system.backend import mx, nn, shard_linear

#: Called as hook(site name, layer, array); returns the array to go on with. Arrays are
#: (batch, tokens, width); for "attn_pattern" (batch, heads, tokens, keys).
Hook = Callable[[str, int, mx.array], mx.array]


def no_hook(site: str, layer: int, x: mx.array) -> mx.array:
    """The hook of a plain forward pass."""
    return x


@dataclass(frozen=True, eq=False)
class Intervention:
    """A hook that changes what the model goes on with at one site of one layer."""

    site: str
    layer: int
    change: Callable[[mx.array], mx.array]

    def __call__(self, site: str, layer: int, x: mx.array) -> mx.array:
        return self.change(x) if site == self.site and layer == self.layer else x


def _hook_whole(
    hook: Hook, site: str, layer: int, part: mx.array, ranks: Ranks, axis: int
) -> mx.array:
    """Call the hook at a site of which each rank holds a part along `axis`.

    The hook is given the whole. MLX is lazy: the ranks exchange their parts only if the hook keeps
    or changes it.

    Returns:
        This rank's part of what the hook returned.
    """
    if ranks.size == 1:
        return hook(site, layer, part)
    whole = ranks.join(part, axis)
    changed = hook(site, layer, whole)
    return part if changed is whole else ranks.part(changed, axis)


class RMSNorm(nn.Module):
    """Root-mean-square norm with Gemma's scale of 1 + weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = mx.zeros((width,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        # As in transformers, 1 + weight isn't rounded to bfloat16.
        scale = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x, scale, self.eps).astype(x.dtype)


class MLP(nn.Module):
    """Gated feed-forward network: (batch, tokens, hidden) to the same shape."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)
        self.ranks = ALONE

    def shard(self, ranks: Ranks) -> None:
        """Keep this rank's share of the intermediate features."""
        self.ranks = ranks
        self.gate_proj = shard_linear(self.gate_proj, "all-to-sharded", group=ranks.group)
        self.up_proj = shard_linear(self.up_proj, "all-to-sharded", group=ranks.group)
        self.down_proj = shard_linear(self.down_proj, "sharded-to-all", group=ranks.group)

    def __call__(self, x: mx.array, layer: int, hook: Hook) -> mx.array:
        gated = gated_gelu(self.gate_proj(x), self.up_proj(x))
        return self.down_proj(_hook_whole(hook, "mlp_post", layer, gated, self.ranks, -1))


class Attention(nn.Module):
    """Causal self-attention, global or over a sliding window, as the layer's cache says."""

    def __init__(self, config: GemmaConfig, rope: Rope):
        super().__init__()
        hidden, width, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(hidden, self.heads * width, bias=bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * width, bias=bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * width, bias=bias)
        self.o_proj = nn.Linear(self.heads * width, hidden, bias=bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(width, config.rms_norm_eps)
            self.k_norm = RMSNorm(width, config.rms_norm_eps)
        self.qk_norm = config.qk_norm
        self.head_dim = width
        self.scale = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping
        self.rope = nn.RoPE(width, base=rope.base, scale=1.0 / rope.factor)
        self.ranks = ALONE

    def shard(self, ranks: Ranks) -> None:
        """Keep this rank's share of the heads; a single key-value head is kept by every rank."""
        self.ranks = ranks
        self.heads //= ranks.size
        self.q_proj = shard_linear(self.q_proj, "all-to-sharded", group=ranks.group)
        if self.kv_heads > 1:
            self.kv_heads //= ranks.size
            self.k_proj = shard_linear(self.k_proj, "all-to-sharded", group=ranks.group)
            self.v_proj = shard_linear(self.v_proj, "all-to-sharded", group=ranks.group)
        self.o_proj = shard_linear(self.o_proj, "sharded-to-all", group=ranks.group)

    def __call__(
        self, x: mx.array, cache: LayerCache, layer: int, hook: Hook, pattern: bool, last: int
    ) -> mx.array:
        batch, length, _ = x.shape

        def heads(y: mx.array, count: int) -> mx.array:
            return y.reshape(batch, -1, count, self.head_dim).transpose(0, 2, 1, 3)

        q = heads(self.q_proj(x[:, -last:]), self.heads)
        k = heads(self.k_proj(x), self.kv_heads)
        v = heads(self.v_proj(x), self.kv_heads)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = self.rope(q, cache.positions + (length - last))
        k = self.rope(k, cache.positions)
        k, v, mask = cache.update(k, v)
        if isinstance(mask, mx.array):
            mask = mask[..., -last:, :]
        if pattern or self.softcap is not None:
            mixed = self._explicit(q, k, v, mask, cache, layer, hook)
        else:
            mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=mask)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(batch, last, -1))

    def _explicit(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        mask: mx.array | str | None,
        cache: LayerCache,
        layer: int,
        hook: Hook,
    ) -> mx.array:
        """Attention that computes its weights, as soft caps and the site `attn_pattern` need."""
        repeats = self.heads // self.kv_heads
        if repeats > 1:
            k, v = mx.repeat(k, repeats, axis=1), mx.repeat(v, repeats, axis=1)
        scores = (q * self.scale) @ k.swapaxes(-1, -2)
        if self.softcap is not None:
            scores = mx.tanh(scores / self.softcap) * self.softcap
        if isinstance(mask, str):
            mask = mx.tri(k.shape[2], dtype=mx.bool_)[-q.shape[2] :]
        if mask is not None:
            scores = mx.where(mask, scores, mx.array(-math.inf, scores.dtype))
        weights = mx.softmax(scores, axis=-1, precise=True)
        # A sliding layer's cache is a ring; what is captured is in the order of the tokens.
        order = cache.order(k.shape[2])
        if order is not None:
            weights, v = weights[..., order], v[:, :, order]
        return _hook_whole(hook, "attn_pattern", layer, weights, self.ranks, 1) @ v


class Block(nn.Module):
    """One transformer block, with norms before and after attention and MLP."""

    def __init__(self, config: GemmaConfig, layer: int):
        super().__init__()
        sliding = config.layer_types[layer] == "sliding_attention"
        self.self_attn = Attention(config, config.local_rope if sliding else config.global_rope)
        self.mlp = MLP(config)
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm = RMSNorm(hidden, eps)
        self.post_feedforward_layernorm = RMSNorm(hidden, eps)

    def __call__(
        self, x: mx.array, cache: LayerCache, layer: int, hook: Hook, pattern: bool, last: int
    ) -> mx.array:
        """The residual stream after the block, (batch, last, hidden), from that before it.

        Keys and values are computed of all columns of `x`, the rest only of the `last` ones.
        """
        x = hook("resid_pre", layer, x)
        attended = self.self_attn(self.input_layernorm(x), cache, layer, hook, pattern, last)
        attended = hook("attn_out", layer, attended)
        x = x[:, -last:] + self.post_attention_layernorm(attended)
        x = hook("resid_mid", layer, x)
        mlp = hook("mlp_out", layer, self.mlp(self.pre_feedforward_layernorm(x), layer, hook))
        mlp = hook("mlp_out_normed", layer, self.post_feedforward_layernorm(mlp))
        return hook("resid_post", layer, x + mlp)


class Decoder(nn.Module):
    """Embedding, blocks and final norm, which checkpoints keep under the key `model`."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, layer) for layer in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class GemmaModel(nn.Module):
    """A Gemma 2 or Gemma 3 text model, as `config` says.

    Arrays are in the dtype of the weights, except token ids (int32) and logits (float32).
    """

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.config = config

    def shard(self, ranks: Ranks) -> None:
        """Split every block's attention heads and MLP over the ranks (Shoeybi et al. 2019,
        arXiv:1909.08053); embedding, norms and head stay whole on each.

        Raises:
            CheckpointError: heads or features can't be split into so many parts.
            ValueError: the groups of a quantization can't.
        """
        self.config.check_split(ranks.size)
        for block in self.model.layers:
            block.self_attn.shard(ranks)
            block.mlp.shard(ranks)

    def __call__(
        self,
        tokens: mx.array,
        cache: BatchCache | None = None,
        hook: Hook = no_hook,
        *,
        pattern: bool = False,
        last: int | None = None,
    ) -> mx.array:
        """Hidden states after the final norm, (batch, last, hidden).

        Args:
            tokens: ids (batch, columns).
            cache: of the batch that `tokens` belong to; without one, each row is a whole sequence
                without padding.
            pattern: compute attention weights and call the hook at `attn_pattern`.
            last: the columns at the end to compute, by default all.
        """
        batch, length = tokens.shape
        if cache is None:
            cache = BatchCache(self.config, padding=[0] * batch, capacity=length)
        cache.columns.advance(length)
        x = self.run_blocks(self.embed(tokens), cache, hook, pattern=pattern, last=last)
        return self.model.norm(x)

    def embed(self, tokens: mx.array) -> mx.array:
        """The residual stream before the first block, (batch, tokens, hidden)."""
        # An embedding quantized to small floats gives bfloat16, whatever the compute dtype.
        x = self.model.embed_tokens(tokens).astype(self.model.norm.weight.dtype)
        # transformers rounds √hidden to the compute dtype, and so do we.
        return x * mx.array(self.config.hidden_size**0.5, dtype=x.dtype)

    def run_blocks(
        self,
        x: mx.array,
        cache: BatchCache,
        hook: Hook = no_hook,
        *,
        first: int = 0,
        until: int | None = None,
        pattern: bool = False,
        last: int | None = None,
    ) -> mx.array:
        """The residual stream before block `until`, or after all blocks, from that before `first`.

        Args:
            x: (batch, columns, hidden); `cache` has been told of these columns.
            hook, pattern: as for a call.
            last: columns at the end that the model's last block computes, by default all.
        """
        length, blocks = x.shape[1], self.model.layers
        for layer in range(len(blocks))[first:until]:
            kept = last or length if layer == len(blocks) - 1 else length
            x = blocks[layer](x, cache.layers[layer], layer, hook, pattern, kept)
        return x

    def logits(self, hidden: mx.array) -> mx.array:
        """Float32 logits (…, vocab) from hidden states (…, hidden) after the final norm."""
        if self.config.tie_word_embeddings:
            logits = self.model.embed_tokens.as_linear(hidden)
        else:
            logits = self.lm_head(hidden)
        cap = self.config.final_logit_softcapping
        if cap is not None:
            logits = mx.tanh(logits / cap) * cap
        return logits.astype(mx.float32)
