"""Attention within the many chunks of a vision tower: all at once, in place of one call a chunk.

Qwen's towers read all images of a batch as one sequence, Qwen2.5-VL's in windows of 112 pixels besides. Without
FlashAttention transformers attends within one chunk after another, which leaves a GPU idle nearly all the time. What
is registered here lays the chunks side by side, padded, and makes one call of PyTorch's attention.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# transformers hands whole sequences and the chunks' limits to what it takes for FlashAttention, which goes by the name.
NAME = "comem_flash_chunks"
# Padding is laid out too; from so many times the tokens on, a call a chunk is cheaper.
MOST_PADDING = 4


def attend_in_chunks(model: Any) -> None:
    """Has the vision tower of a model of one of `FAMILIES` attend within all chunks at once, if it is on a GPU (a
    processor loses by padding) and attends by PyTorch's kernels."""
    if model.config.model_type not in FAMILIES or model.device.type != "cuda":
        return
    if model.config.vision_config._attn_implementation == "sdpa":
        model.config.vision_config._attn_implementation = NAME


def chunked_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of every token to those of its chunk.

    Args:
        query, key, value: (1, H, L, d).
        cu_seq_lens_q: where chunks begin, and L at the end; (n + 1,). Without it there is one chunk.
        max_length_q: tokens of the longest chunk.

    Returns:
        (1, L, H, d), and no weights.
    """
    limits = torch.tensor([0, query.shape[2]], device=query.device) if cu_seq_lens_q is None else cu_seq_lens_q.long()
    length, longest = query.shape[2], max_length_q or int(limits.diff().max())
    if (len(limits) - 1) * longest > MOST_PADDING * length:
        return _one_by_one(query, key, value, limits, scaling, dropout), None
    places = limits[:-1, None] + torch.arange(longest, device=query.device)  # (n, longest)
    there = places < limits[1:, None]
    places = places.clamp(max=length - 1)
    q, k, v = (tensor[0][:, places].transpose(0, 1) for tensor in (query, key, value))  # (n, H, longest, d)
    whole = there.numel() == length
    mask = None if whole else there[:, None, None]
    found = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    flat = found.transpose(1, 2).flatten(0, 1)  # (n * longest, H, d)
    if not whole:
        chunk = torch.repeat_interleave(limits.diff(), output_size=length)
        flat = flat[torch.arange(length, device=query.device) - limits[chunk] + chunk * longest]
    return flat[None], None


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, limits: Tensor, scaling: float | None, dropout: float
) -> Tensor:
    parts = zip(*(tensor.split(limits.diff().tolist(), dim=2) for tensor in (query, key, value)), strict=True)
    found = [scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in parts]
    return torch.cat(found, dim=2).transpose(1, 2)


AttentionInterface.register(NAME, chunked_attention)
