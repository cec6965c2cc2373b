"""The resampler (Q-Former): hidden states (B, N, D) in, a few vectors (B, n_vectors, D) out. Knows tensors only."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class ResamplerConfig:
    """Shape of a resampler.

    Attributes:
        dim: width inside and out; the VLM's embedding width (3584 at 7B).
        input_dim: width of the hidden states it reads.
        n_vectors: vectors an item becomes (8 in the paper).
        depth: how often the one shared block is applied (8).
        heads, dim_head: attention heads and their width (16 and 224 at 7B).
        ff_mult: width of the feed-forward part as a multiple of ``dim`` (4).
        init_std: of fresh linear weights. The reference's 0.02 suits widths of thousands; at a width in the hundreds
            so little of the input passes that training takes many times longer, and 1 / sqrt(dim) is right.
        init_scale: of fresh output vectors, per dimension. The reference's is 1; the standard deviation of the VLM's
            token embeddings makes memories look like tokens from the start.
    """

    dim: int
    input_dim: int
    n_vectors: int = 8
    depth: int = 8
    heads: int = 16
    dim_head: int = 224
    ff_mult: int = 4
    init_std: float = 0.02
    init_scale: float = 1.0


class Resampler(nn.Module):
    """One Perceiver block with shared weights, applied ``depth`` times to learned queries (paper, section 3.2).

    By default weights start as the reference's do: linear N(0, 0.02), biases 0, queries N(0, 1/dim).
    """

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(1, config.n_vectors, config.dim) / config.dim**0.5)
        self.proj_in = nn.Linear(config.input_dim, config.dim)
        self.attention = LatentAttention(config)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, config.ff_mult * config.dim, bias=False),
            nn.GELU(),
            nn.Linear(config.ff_mult * config.dim, config.dim, bias=False),
        )
        self.proj_out = nn.Linear(config.dim, config.dim)
        self.norm_out = nn.LayerNorm(config.dim)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.config.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.norm_out.weight, self.config.init_scale)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Reads hidden states where the mask is true.

        Args:
            hidden: (B, N, input_dim).
            mask: (B, N), bool; what it hides has no influence whatsoever.

        Returns:
            (B, n_vectors, dim).
        """
        x = self.proj_in(hidden)
        latents = self.latents.expand(len(x), -1, -1)
        # The latents attend to themselves as well, and are never masked.
        keep = torch.cat([mask, mask.new_ones(len(mask), latents.shape[1])], dim=1)[:, None, None]  # (B, 1, 1, N + n)
        for _ in range(self.config.depth):
            latents = self.attention(x, latents, keep) + latents
            latents = self.feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class LatentAttention(nn.Module):
    """Queries from the latents; keys and values from the input and the latents together."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner = config.heads * config.dim_head
        self.heads = config.heads
        self.norm_input = nn.LayerNorm(config.dim)
        self.norm_latents = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor, keep: Tensor) -> Tensor:
        """x (B, N, D), latents (B, n, D), keep (B, 1, 1, N + n) bool; returns (B, n, D)."""
        latents = self.norm_latents(latents)
        both = torch.cat([self.norm_input(x), latents], dim=1)
        q, k, v = (self._split(t) for t in (self.to_q(latents), *self.to_kv(both).chunk(2, dim=-1)))
        out = scaled_dot_product_attention(q, k, v, attn_mask=keep)  # (B, heads, n, dim_head)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
