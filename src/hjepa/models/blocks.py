"""The pre-norm transformer block. Parameter names are timm's, so that weights can be exchanged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.models.positions import rotate

NORM_EPS = 1e-6
# Most keys for which attention is computed as explicit products. They keep 6 * heads * keys ** 2 bytes per image and
# block (weights in float32 and in bf16), and the gain in speed shrinks with the number of keys.
MOST_KEYS = 576


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention (arXiv:1706.03762, eq. 1), using the fastest kernel for this device and dtype.

    That is PyTorch's fused kernel, except for short sequences in bf16 on a CPU: there the fused kernel takes two to
    three times as long as in float32 (forward and backward), and explicit products half as long
    (`python -m benchmarks.attention`).

    Args:
        q: [B, heads, M, d].
        k, v: [B, heads, N, d].

    Returns:
        [B, heads, M, d].
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= MOST_KEYS:
        return attend_by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two products and a softmax. Keeps [B, heads, M, N] for the backward pass. In bf16 it rounds the scores
    before the softmax, unlike the fused kernel, so errors are two to four times as large. The softmax is computed in
    float32, because its gradient uses its output, which bf16 would round."""
    return attention_weights(q, k).to(v.dtype) @ v


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled products of queries [B, heads, M, d] and keys [B, heads, N, d]: float32 [B, heads, M, N]."""
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1, dtype=torch.float32)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor | None = None, first: int = 0) -> Tensor:
        """Attend within each row of the batch.

        Args:
            x: [B, N, D].
            angles: rotary angles of the tokens, [N, D / heads / 2] or with a batch axis.
            first: compute outputs only for the tokens from this one on; all tokens are attended to.

        Returns:
            [B, N - first, D].
        """
        q, k, v = self._queries_keys_values(x, angles, first)
        return self._merge(attend(q, k, v))

    def with_weights(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend like `forward`, by explicit products, and also return the attention weights, which fused kernels do not
        compute as a whole.

        Args:
            x, angles: as in `forward`.

        Returns:
            the output [B, N, D], equal to that of `forward` up to rounding, and float32 weights [B, heads, N, N], query
            by key; each row sums to 1.
        """
        q, k, v = self._queries_keys_values(x, angles)
        weights = attention_weights(q, k)
        return self._merge(weights.to(v.dtype) @ v), weights

    def _queries_keys_values(
        self, x: Tensor, angles: Tensor | None = None, first: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        B, N, D = x.shape
        heads = (self.num_heads, D // self.num_heads)
        if first:
            # Split the fused projection into the rows for queries and those for keys and values.
            (for_q, for_kv), (bias_q, bias_kv) = (torch.split(p, [D, 2 * D]) for p in (self.qkv.weight, self.qkv.bias))
            q = F.linear(x[:, first:], for_q, bias_q).view(B, N - first, *heads).transpose(1, 2)
            k, v = F.linear(x, for_kv, bias_kv).view(B, N, 2, *heads).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = self.qkv(x).view(B, N, 3, *heads).permute(2, 0, 3, 1, 4).unbind(0)
        if angles is not None:
            q, k = rotate(q, angles[..., first:, :]), rotate(k, angles)
        return q, k, v

    def _merge(self, attended: Tensor) -> Tensor:
        """Concatenate the heads of [B, heads, M, d] and project to [B, M, D]."""
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor per feature (CaiT, arXiv:2103.17239)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, drops a residual branch at random for each image."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < keep).to(x.dtype) / keep


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each on a residual branch.

    Args:
        dim: width.
        num_heads: attention heads.
        mlp_ratio: hidden MLP width as a multiple of ``dim``.
        layer_scale: initial value of LayerScale; None for none.
        drop_path: probability of dropping a branch.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, layer_scale: float | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, angles: Tensor | None = None, first: int = 0) -> Tensor:
        """[B, N, D] -> [B, N - first, D]; outputs of the first tokens are not computed, as nothing depends on them."""
        return self._add(x[:, first:], self.attn(self.norm1(x), angles, first))

    def with_weights(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block's output [B, N, D] and its attention weights [B, heads, N, N]; see `Attention.with_weights`."""
        attended, weights = self.attn.with_weights(self.norm1(x), angles)
        return self._add(x, attended), weights

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(attended))
        out: Tensor = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return out


def init_transformer(module: nn.Module) -> None:
    """Initialise every linear layer of a network: truncated normal of 0.02 for weights, zero for biases (ViT, MAE)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
