"""Times of the gallery's operators and of PyTorch's: python docs/gallery/timings.py (needs torch).

Median of runs in alternating blocks, in milliseconds. `loops` are plain NumPy, where PyTorch has no such operator.
"""

import statistics
import time

import numpy as np
import operators
import torch
from torch.nn import functional as T

import firepot as fp
from firepot.nn import functional as F

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def nms_loops(boxes, scores, threshold):
    left, kept = np.argsort(-scores), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        i, left = left[0], left[1:]
        kept.append(i)
        low, high = np.maximum(boxes[i, :2], boxes[left, :2]), np.minimum(boxes[i, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), -1)
        left = left[shared <= threshold * (area[i] + area[left] - shared)]
    return kept


def report(name, ours, theirs, rounds=15):
    """ours() and theirs() in turn, a few calls each: another library's threads may spin for a while after a call."""
    times = [], []
    for _ in range(3):
        for run, kept in zip((ours, theirs), times, strict=True):
            for n in range(rounds // 3 + 2):
                start = time.perf_counter()
                run()
                if n >= 2:
                    kept.append(1e3 * (time.perf_counter() - start))
    a, b = map(statistics.median, times)
    print(f"{name:28} {a:9.3f} {b:9.3f} {b / a:7.2f}", flush=True)


def pair(name, ours, theirs, *arrays):
    """An operator of tensors, jitted, and PyTorch's."""
    function = fp.jit(ours)
    mine, other = [fp.tensor(a) for a in arrays], [torch.tensor(a) for a in arrays]
    report(name, lambda: fp.eval(function(*mine)), lambda: theirs(*other))


def step_pair(name, ours, theirs, *arrays):
    """An operator with the gradients of its arguments, and PyTorch's."""
    both = fp.jit(fp.grad(lambda *a: (ours(*a) ** 2).sum(), argnums=tuple(range(len(arrays)))))
    mine, other = [fp.tensor(a) for a in arrays], [torch.tensor(a).requires_grad_() for a in arrays]
    report(name, lambda: fp.eval(*both(*mine)), lambda: torch.autograd.grad((theirs(*other) ** 2).sum(), other))


def main():
    torch.set_num_threads(fp.get_num_threads())
    print(f"{'ms':28} {'firepot':>9} {'other':>9} {'ratio':>7}")
    x, w = draw(8, 64, 56, 56), draw(64, 64, 3, 3)
    pair("conv2d", lambda x, w: operators.conv2d(x, w, 1), lambda x, w: T.conv2d(x, w, padding=1), x, w)
    mine = [fp.tensor(a) for a in (x, w)]
    named = fp.jit(lambda x, w: F.conv2d(x, w, padding=1))
    written = fp.jit(lambda x, w: operators.conv2d(x, w, 1))
    report("conv2d, other: fp's own", lambda: fp.eval(written(*mine)), lambda: fp.eval(named(*mine)))
    few, thin = draw(64, 16, 3, 3), draw(64, 3, 3)
    pair("grouped_conv2d", lambda x, w: operators.grouped_conv2d(x, w, 4, 1),
         lambda x, w: T.conv2d(x, w, padding=1, groups=4), x, few)  # fmt: skip
    pair("depthwise_conv2d", lambda x, w: operators.depthwise_conv2d(x, w, 1),
         lambda x, w: T.conv2d(x, w[:, None], padding=1, groups=64), x, thin)  # fmt: skip
    step_pair("grouped_conv2d, step", lambda x, w: operators.grouped_conv2d(x, w, 4, 1),
              lambda x, w: T.conv2d(x, w, padding=1, groups=4), x, few)  # fmt: skip
    step_pair("depthwise_conv2d, step", lambda x, w: operators.depthwise_conv2d(x, w, 1),
              lambda x, w: T.conv2d(x, w[:, None], padding=1, groups=64), x, thin)  # fmt: skip
    pair("max_pool2d", lambda x: operators.max_pool2d(x, 2), lambda x: T.max_pool2d(x, 2), x)
    pair("avg_pool2d", lambda x: operators.avg_pool2d(x, 2), lambda x: T.avg_pool2d(x, 2), x)
    grid = RNG.uniform(-1, 1, (8, 56, 56, 2)).astype(np.float32)
    pair("grid_sample", operators.grid_sample, lambda x, g: T.grid_sample(x, g, align_corners=False), x, grid)
    offset = draw(2, 18, 54, 54)
    deformed = fp.jit(operators.deform_conv2d)
    given = [fp.tensor(a) for a in (x[:2], offset, w)]
    report("deform_conv2d, other: conv2d", lambda: fp.eval(deformed(*given)),
           lambda: T.conv2d(torch.tensor(x[:2]), torch.tensor(w)))  # fmt: skip
    q = draw(4, 12, 512, 64)

    def turned(x):
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[-2])[:, None] / 10000.0 ** (torch.arange(half) / half)
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    pair("rotary", operators.rotary, turned, q)
    n = 1 << 20
    p, g = draw(n), draw(n)
    parameter = torch.nn.Parameter(torch.tensor(p))
    parameter.grad = torch.tensor(g)
    optimiser = torch.optim.AdamW([parameter], fused=True)
    weights, first, second = fp.tensor(p), fp.zeros(n), fp.zeros(n)
    gradient, rate, count = fp.tensor(g), fp.tensor(0.001), fp.tensor(1.0)

    @fp.jit
    def step():
        found = operators.adamw(weights, gradient, first, second, rate, count)
        for state, new in zip((weights, first, second), found, strict=True):
            state.copy_(new)

    def stepped():
        step()
        fp.eval(weights)

    report("adamw, 1 M parameters", stepped, optimiser.step)
    corner = RNG.uniform(0, 600, (2000, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(10, 100, (2000, 2))], 1).astype(np.float32)
    scores = RNG.uniform(0, 1, 2000).astype(np.float32)
    a, b = fp.tensor(boxes), fp.tensor(scores)
    report("nms, other: NumPy", lambda: operators.nms(a, b, 0.5).numpy(), lambda: nms_loops(boxes, scores, 0.5), 5)
    rois = np.concatenate([RNG.integers(0, 8, (64, 1)), boxes[:64] / 15], 1).astype(np.float32)
    align = fp.jit(lambda x, r: operators.roi_align(x, r, 7, 2))
    features, where = fp.tensor(x), fp.tensor(rois)
    steps = torch.linspace(-1, 1, 14)
    grid14 = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).expand(64, 14, 14, 2)
    copies = torch.tensor(x[rois[:, 0].astype(int)])
    report("roi_align, other: grids", lambda: fp.eval(align(features, where)),
           lambda: T.avg_pool2d(T.grid_sample(copies, grid14, align_corners=False), 2))  # fmt: skip


main()
