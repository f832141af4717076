"""A small GPT: pre-norm blocks, RMSNorm without weights, rotary positions, causal attention by SDPA, squared ReLU.

Given: a ModelConfig and token ids of shape (batch, time). Hands on: logits of shape (batch, time, vocabulary).
Never: knows about devices, losses or training.
"""

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
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: "KVCache | None" = None) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mask = None
        if cache is not None:
            k, v, mask = cache.update(self.layer, k, v)
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
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config, layer), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: "KVCache | None" = None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cos, sin, cache))
        return x + self.dropout(self.mlp(rms_norm(x)))


class KVCache:
    """Keys and values of the tokens read so far, so that one more token costs one position instead of all."""

    def __init__(self, batch_size: int, max_len: int, device: torch.device) -> None:
        """For ``batch_size`` sequences of at most ``max_len`` tokens. The first call reads whole prompts."""
        self.layers: list[tuple[Tensor, Tensor]] = []
        """Keys and values, each (batch, heads, max_len, head_dim)."""
        self.rows, self.places = torch.arange(batch_size, device=device), torch.arange(max_len, device=device)
        self.positions: Tensor | None = None
        """Of the one new token of each sequence, (batch,); None: whole prompts are read, from position 0 on."""

    def move_to(self, positions: Tensor) -> None:
        """The next call reads one token of each sequence, at these positions, (batch,)."""
        self.positions = positions
        self.mask = (self.places <= positions[:, None])[:, None, None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values, (batch, heads, time, head_dim).

        Returns all keys and values, and which of them each sequence attends to; None: causal.
        """
        if self.positions is None:
            room = (0, 0, 0, len(self.places) - k.size(2))
            self.layers.append((F.pad(k, room), F.pad(v, room)))
            return k, v, None
        keys, values = self.layers[layer]
        keys[self.rows, :, self.positions] = k[:, :, 0]
        values[self.rows, :, self.positions] = v[:, :, 0]
        return keys, values, self.mask


class GPT(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        """Compute activations again in the backward pass instead of keeping them?"""
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.seq_len, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()
        if config.tie_weights:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: (batch, time, width).

        With a ``cache``, first give whole prompts, then, after each ``cache.move_to``, one token per row.
        """
        time = tokens.size(1)
        cos, sin = self.cos[:, :, :time], self.sin[:, :, :time]
        if cache is not None and cache.positions is not None:
            cos, sin = (table[0, 0, cache.positions][:, None, None] for table in (self.cos, self.sin))
        x = rms_norm(self.embedding(tokens))
        for block in self.blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin, cache)
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
