"""Vision transformer: A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import firepot as fp
from firepot import nn

_SMALL_IMAGE = 64


class MLPBlock(nn.Sequential):
    """Two linear layers with GELU between, numbered as in torchvision's state_dict."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        for layer in (self[0], self[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)


class EncoderBlock(nn.Module):
    """Attention and an MLP, each after a layer normalisation and added to its input."""

    def __init__(self, heads: int, width: int, hidden: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLPBlock(width, hidden, dropout)

    def forward(self, x: Any) -> Any:
        normal = self.ln_1(x)
        attended, _ = self.self_attention(normal, normal, normal, need_weights=False)
        x = x + self.dropout(attended)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """The position embedding and the blocks."""

    def __init__(
        self,
        length: int,
        layers: int,
        heads: int,
        width: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(fp.randn(1, length, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        blocks = OrderedDict(
            (f"encoder_layer_{i}", EncoderBlock(heads, width, hidden, dropout, attention_dropout))
            for i in range(layers)
        )
        self.layers = nn.Sequential(blocks)
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Any) -> Any:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """(N, in_channels, image_size, image_size) to (N, num_classes).

    The image is cut into patches of patch_size x patch_size; each is a token, and one more token gathers the
    answer. Raises ValueError if the patches do not fill the image.
    """

    def __init__(
        self, image_size: int, patch_size: int, num_layers: int, num_heads: int, hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0, attention_dropout: float = 0.0, num_classes: int = 1000, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"VisionTransformer: patches of {patch_size} do not fill an image of {image_size}")
        self.image_size, self.patch_size, self.hidden_dim = image_size, patch_size, hidden_dim
        self.class_token = nn.Parameter(fp.zeros(1, 1, hidden_dim))
        self.conv_proj = nn.Conv2d(in_channels, hidden_dim, patch_size, patch_size)
        length = (image_size // patch_size) ** 2 + 1
        self.encoder = Encoder(length, num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout)
        self.heads = nn.Sequential(OrderedDict([("head", nn.Linear(hidden_dim, num_classes))]))
        inputs = in_channels * patch_size * patch_size
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / inputs))
        nn.init.zeros_(self.conv_proj.bias)
        nn.init.zeros_(self.heads[0].weight)
        nn.init.zeros_(self.heads[0].bias)

    def forward(self, x: Any) -> Any:
        if tuple(x.shape[2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"VisionTransformer: made for images of {self.image_size} x {self.image_size}, got a batch "
                "of shape "
                f"{tuple(x.shape)}"
            )
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(x.shape[0], -1, -1)
        return self.heads(self.encoder(fp.cat([first, tokens], 1))[:, 0])


def _vit(width: int, heads: int, num_classes: int, in_channels: int, image_size: int) -> VisionTransformer:
    patch = 16
    if image_size <= _SMALL_IMAGE:  # about 8 x 8 patches: the divisor nearest to an eighth of the side
        divisors = [size for size in range(1, image_size + 1) if image_size % size == 0]
        patch = min(divisors, key=lambda size: (abs(size - image_size / 8), size))
    return VisionTransformer(
        image_size, patch, 12, heads, width, 4 * width, num_classes=num_classes, in_channels=in_channels
    )


def vit_tiny(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> VisionTransformer:
    """12 layers, width 192, 3 heads: 5.7 million parameters. H. Touvron et al., DeiT, 2021."""
    return _vit(192, 3, num_classes, in_channels, image_size)


def vit_small(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> VisionTransformer:
    """12 layers, width 384, 6 heads: 22 million parameters."""
    return _vit(384, 6, num_classes, in_channels, image_size)


def vit_base(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> VisionTransformer:
    """12 layers, width 768, 12 heads: 86 million parameters; torchvision's vit_b_16 at 224 x 224."""
    return _vit(768, 12, num_classes, in_channels, image_size)
