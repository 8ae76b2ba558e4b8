"""The seven models as a JAX user would write them: pure functions over a dictionary of arrays.

Images are (N, H, W, C), as XLA on the CPU prefers them. Arrays have the names of the other libraries' state_dict, and
`from_state` takes such a dictionary, so weights can be shared. Every model is one function of (variables, x).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Arrays = dict[str, Any]


class Variables:
    """The model's arrays by name. While their shapes are being found, any name is there, filled with zeros."""

    def __init__(self, arrays: Mapping[str, Any] | None, training: bool = False, key: Any = None) -> None:
        self.arrays, self.training, self.key = arrays, training, key
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.statistics: Arrays = {}  # new values of the running statistics

    def __call__(self, name: str, *shape: int) -> Any:
        self.shapes[name] = shape
        return jnp.zeros(shape) if self.arrays is None else self.arrays[name]


def initial(name: str, shape: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    """(parameters, running statistics) for an input of this shape: normal values of variance 1 / inputs."""
    variables = Variables(None, training=True, key=jax.random.key(0))
    dtype = jnp.int32 if name == "gpt" else jnp.float32
    jax.eval_shape(lambda x: MODELS[name](variables, x), jax.ShapeDtypeStruct(shape, dtype))
    random = np.random.default_rng(0)
    parameters: Arrays = {}
    for key, size in variables.shapes.items():
        if key.endswith("weight") and len(size) > 1:
            inputs = math.prod(size[:-1]) if len(size) == 4 else size[-1]
            parameters[key] = random.standard_normal(size, np.float32) / np.float32(math.sqrt(inputs))
        else:
            parameters[key] = np.full(size, 1.0 if key.endswith(("weight", "running_var")) else 0.0, np.float32)
    return _split({k: jnp.asarray(v) for k, v in parameters.items()})


def from_state(state: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Arrays, Arrays]:
    """The same from another library's state_dict: kernels (O, I, H, W) become (H, W, I, O)."""
    arrays = {k: jnp.asarray(v.transpose(2, 3, 1, 0) if v.ndim == 4 else v) for k, v in state.items()}
    return _split({k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")})


def input_of(x: np.ndarray[Any, Any]) -> Any:
    """The other libraries' input as the models here want it."""
    return jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)


def _split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    running = {k: v for k, v in arrays.items() if ".running_" in k}
    return {k: v for k, v in arrays.items() if k not in running}, running


@functools.partial(jax.jit, static_argnums=0)
def infer(name: str, parameters: Arrays, running: Arrays, x: Any) -> Any:
    return MODELS[name](Variables(parameters | running), x)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3, 4))
def train_step(
    name: str, update: Callable[..., Any], parameters: Arrays, running: Arrays, memory: Any, x: Any, y: Any, key: Any
) -> tuple[Any, Arrays, Arrays, Any]:
    """(loss, new parameters, new running statistics, new optimiser state)."""

    def loss_of(parameters: Arrays) -> tuple[Any, Arrays]:
        variables = Variables(parameters | running, training=True, key=key)
        logits = MODELS[name](variables, x)
        likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1)
        return -likelihoods.mean(), variables.statistics

    (loss, running), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    parameters, memory = update(parameters, gradients, memory)
    return loss, parameters, running, memory


def sgd(parameters: Arrays, gradients: Arrays, memory: Arrays, lr: float = 1e-3, momentum: float = 0.9) -> Any:
    """Stochastic gradient descent; `memory` is {name: velocity}."""
    memory = {k: momentum * memory[k] + gradients[k] for k in parameters}
    return {k: parameters[k] - lr * memory[k] for k in parameters}, memory


def adamw(parameters: Arrays, gradients: Arrays, memory: Any, lr: float = 1e-4, decay: float = 0.01) -> Any:
    """I. Loshchilov and F. Hutter, 2019; `memory` is (step, {name: mean}, {name: mean square})."""
    step, first, second = memory
    step = step + 1
    first = {k: 0.9 * first[k] + 0.1 * g for k, g in gradients.items()}
    second = {k: 0.999 * second[k] + 0.001 * g * g for k, g in gradients.items()}
    rate, root = lr / (1 - 0.9**step), jnp.sqrt(1 - 0.999**step)
    new = {
        k: p * (1 - lr * decay) - rate * first[k] / (jnp.sqrt(second[k]) / root + 1e-8) for k, p in parameters.items()
    }
    return new, (step, first, second)


def optimizer(name: str, parameters: Arrays) -> tuple[Callable[..., Any], Any]:
    """(update, initial memory): AdamW for the transformers, else SGD with momentum."""

    def zeros() -> Arrays:
        return {k: jnp.zeros_like(p) for k, p in parameters.items()}

    return (adamw, (jnp.zeros(()), zeros(), zeros())) if name in ("gpt", "vit_tiny") else (sgd, zeros())


# Layers.


def _linear(v: Variables, name: str, x: Any, width: int) -> Any:
    return x @ v(f"{name}.weight", width, x.shape[-1]).T + v(f"{name}.bias", width)


def _layer_norm(v: Variables, name: str, x: Any, epsilon: float = 1e-5) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    normal = centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return normal * v(f"{name}.weight", x.shape[-1]) + v(f"{name}.bias", x.shape[-1])


def _convolve(v: Variables, name: str, x: Any, width: int, size: int, stride: int = 1, groups: int = 1) -> Any:
    weight = v(f"{name}.weight", size, size, x.shape[-1] // groups, width)
    return lax.conv_general_dilated(
        x, weight, (stride, stride), [(size // 2, size // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def _batch_norm(v: Variables, name: str, x: Any) -> Any:
    width = x.shape[-1]
    mean, variance = v(f"{name}.running_mean", width), v(f"{name}.running_var", width)
    if v.training:
        count = x.size // width
        old_mean, old_variance = mean, variance
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        v.statistics[f"{name}.running_mean"] = 0.9 * old_mean + 0.1 * mean
        v.statistics[f"{name}.running_var"] = 0.9 * old_variance + 0.1 * variance * count / max(count - 1, 1)
    scale = v(f"{name}.weight", width) * lax.rsqrt(variance + 1e-5)
    return (x - mean) * scale + v(f"{name}.bias", width)


def _attend(q: Any, k: Any, v: Any, heads: int, causal: bool) -> Any:
    q, k, v = (a.reshape(*a.shape[:2], heads, -1) for a in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(*q.shape[:2], -1)


def _gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


# Models.


def mlp(v: Variables, x: Any) -> Any:
    x = jax.nn.relu(_linear(v, "0", x, 512))
    return _linear(v, "4", jax.nn.relu(_linear(v, "2", x, 512)), 10)


def lstm(v: Variables, x: Any, hidden: int = 256) -> Any:
    for layer in range(2):
        weight_ih = v(f"lstm.weight_ih_l{layer}", 4 * hidden, x.shape[-1])
        weight_hh = v(f"lstm.weight_hh_l{layer}", 4 * hidden, hidden)
        bias = v(f"lstm.bias_ih_l{layer}", 4 * hidden) + v(f"lstm.bias_hh_l{layer}", 4 * hidden)

        def step(state: Any, gates: Any, weight: Any = weight_hh) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ weight.T, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[0], hidden))
        _, seen = lax.scan(step, (zeros, zeros), (x @ weight_ih.T + bias).transpose(1, 0, 2))
        x = seen.transpose(1, 0, 2)
    return _linear(v, "head", x[:, -1], 10)


def gpt(v: Variables, x: Any, width: int = 384, layers: int = 6, heads: int = 6, vocabulary: int = 256) -> Any:
    x = v("token.weight", vocabulary, width)[x] + v("position", x.shape[1], width)
    for n in range(layers):
        block = f"blocks.{n}"
        q, k, value = jnp.split(_linear(v, f"{block}.qkv", _layer_norm(v, f"{block}.norm1", x), 3 * width), 3, -1)
        x = x + _linear(v, f"{block}.project", _attend(q, k, value, heads, causal=True), width)
        wide = _gelu(_linear(v, f"{block}.widen", _layer_norm(v, f"{block}.norm2", x), 4 * width))
        x = x + _linear(v, f"{block}.narrow", wide, width)
    return _linear(v, "head", _layer_norm(v, "norm", x), vocabulary)


def vit_tiny(v: Variables, x: Any, width: int = 192, layers: int = 12, heads: int = 3, patch: int = 16) -> Any:
    weight = v("conv_proj.weight", patch, patch, 3, width)
    x = lax.conv_general_dilated(x, weight, (patch, patch), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = x.reshape(x.shape[0], -1, width) + v("conv_proj.bias", width)
    first = jnp.broadcast_to(v("class_token", 1, 1, width), (x.shape[0], 1, width))
    x = jnp.concatenate([first, x], 1)
    x = x + v("encoder.pos_embedding", 1, x.shape[1], width)
    for n in range(layers):
        block = f"encoder.layers.encoder_layer_{n}"
        attention = f"{block}.self_attention"
        weight = v(f"{attention}.in_proj_weight", 3 * width, width)
        qkv = _layer_norm(v, f"{block}.ln_1", x, 1e-6) @ weight.T + v(f"{attention}.in_proj_bias", 3 * width)
        attended = _attend(*jnp.split(qkv, 3, -1), heads, causal=False)
        x = x + _linear(v, f"{attention}.out_proj", attended, width)
        wide = _gelu(_linear(v, f"{block}.mlp.0", _layer_norm(v, f"{block}.ln_2", x, 1e-6), 4 * width))
        x = x + _linear(v, f"{block}.mlp.3", wide, width)
    return _linear(v, "heads.head", _layer_norm(v, "encoder.ln", x, 1e-6)[:, 0], 1000)


def _resnet(v: Variables, x: Any, blocks: tuple[int, ...], bottleneck: bool, classes: int) -> Any:
    relu = jax.nn.relu
    small = x.shape[1] <= 64
    x = relu(_batch_norm(v, "bn1", _convolve(v, "conv1", x, 64, 3 if small else 7, 1 if small else 2)))
    if not small:
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
    for stage, count in enumerate(blocks):
        narrow = 64 << stage
        width = 4 * narrow if bottleneck else narrow
        for n in range(count):
            block, stride = f"layer{stage + 1}.{n}", 2 if stage and not n else 1
            layers = [(narrow, 1, 1), (narrow, 3, stride), (width, 1, 1)] if bottleneck else [
                (narrow, 3, stride), (narrow, 3, 1)
            ]  # fmt: skip
            y = x
            for i, (outputs, size, step) in enumerate(layers, 1):
                y = _batch_norm(v, f"{block}.bn{i}", _convolve(v, f"{block}.conv{i}", y, outputs, size, step))
                y = relu(y) if i < len(layers) else y
            if stride > 1 or x.shape[-1] != width:
                x = _convolve(v, f"{block}.downsample.0", x, width, 1, stride)
                x = _batch_norm(v, f"{block}.downsample.1", x)
            x = relu(y + x)
    return _linear(v, "fc", x.mean((1, 2)), classes)


def resnet18(v: Variables, x: Any) -> Any:
    return _resnet(v, x, (2, 2, 2, 2), bottleneck=False, classes=10)


def resnet50(v: Variables, x: Any) -> Any:
    return _resnet(v, x, (3, 4, 6, 3), bottleneck=True, classes=1000)


def mobilenet_v2(v: Variables, x: Any) -> Any:
    def layer(name: str, x: Any, width: int, size: int, stride: int = 1, groups: int = 1) -> Any:
        x = _convolve(v, f"{name}.0", x, width, size, stride, groups)
        return jax.nn.relu6(_batch_norm(v, f"{name}.1", x))

    x = layer("features.0", x, 32, 3, 2)
    number = 1
    for expansion, width, count, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for n in range(count):
            block, stride, hidden = f"features.{number}.conv", first_stride if n == 0 else 1, expansion * x.shape[-1]
            y = x if expansion == 1 else layer(f"{block}.0", x, hidden, 1)
            i = 0 if expansion == 1 else 1
            y = layer(f"{block}.{i}", y, hidden, 3, stride, hidden)
            y = _batch_norm(v, f"{block}.{i + 2}", _convolve(v, f"{block}.{i + 1}", y, width, 1))
            x = x + y if stride == 1 and x.shape[-1] == width else y
            number += 1
    x = layer(f"features.{number}", x, 1280, 1).mean((1, 2))
    if v.training:
        x = jnp.where(jax.random.bernoulli(v.key, 0.8, x.shape), x / 0.8, 0)
    return _linear(v, "classifier.1", x, 1000)


MODELS: dict[str, Callable[[Variables, Any], Any]] = {
    f.__name__: f for f in (mlp, lstm, gpt, resnet18, mobilenet_v2, vit_tiny, resnet50)
}
