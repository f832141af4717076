"""A small GPT: pre-norm blocks, RMSNorm without weights, rotary positions, causal attention by SDPA, squared ReLU.

Given: a ModelConfig and token ids of shape (batch, time). Hands on: logits of shape (batch, time, vocabulary).
Never: knows about devices, losses or training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int = 320
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    seq_len: int = 128
    dropout: float = 0.0
    tie_weights: bool = False
    checkpoint_activations: bool = False

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def rotary_table(seq_len: int, head_dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (1, 1, seq_len, head_dim / 2). RoFormer, equation 34."""
    frequencies = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequencies)
    return angles.cos()[None, None], angles.sin()[None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) by its position's angle. x: (batch, heads, time, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: "LayerCache | None" = None) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mask = None
        if cache is not None:
            k, v, mask = cache(k, v)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: "LayerCache | None" = None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cos, sin, cache))
        return x + self.dropout(self.mlp(rms_norm(x)))


LayerCache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""(new keys, new values) -> (all keys, all values, which of them each row attends to; None: causal)."""


class KVCache:
    """Keys and values of the tokens read so far, so that one more token costs one position instead of all."""

    def __init__(self, model: "GPT", rows: int, limit: int) -> None:
        """For ``rows`` sequences of at most ``limit`` tokens."""
        config, like = model.config, model.head.weight
        shape = (config.n_layer, rows, config.n_head, limit, config.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.rows, self.places = torch.arange(rows, device=like.device), torch.arange(limit, device=like.device)

    def layer(self, number: int, at: Tensor | None) -> LayerCache:
        """``at``: the position of the one new token of each row; None: whole prompts, from position 0 on."""
        keys, values = self.keys[number], self.values[number]

        def update(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            if at is None:
                keys[:, :, : k.size(2)], values[:, :, : v.size(2)] = k, v
                return k, v, None
            keys[self.rows, :, at], values[self.rows, :, at] = k[:, :, 0].to(keys.dtype), v[:, :, 0].to(keys.dtype)
            return keys.to(k.dtype), values.to(v.dtype), (self.places <= at[:, None])[:, None, None]

        return update


class GPT(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.seq_len, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()
        if config.tie_weights:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor, cache: KVCache | None = None, at: Tensor | None = None) -> Tensor:
        """What the head reads: (batch, time, width).

        With a ``cache``, call it first with whole prompts, then with one token per row, at the positions ``at``.
        """
        time = tokens.size(1)
        cos, sin = self.cos[:, :, :time], self.sin[:, :, :time]
        if at is not None:
            cos, sin = self.cos[0, 0, at][:, None, None], self.sin[0, 0, at][:, None, None]
        x = rms_norm(self.embedding(tokens))
        for number, block in enumerate(self.blocks):
            if self.config.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin, cache.layer(number, at) if cache else None)
        return rms_norm(x)

    def _initialise(self) -> None:
        """Normal with 0.02 everywhere; whatever writes into the residual stream starts at zero."""
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02)

    def matmul_params(self) -> int:
        """Weights that take part in a matrix product: all but the embedding's lookup; a tied head counts once."""
        return sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))

    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def trainable_params(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
