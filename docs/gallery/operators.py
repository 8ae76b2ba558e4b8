"""Operators written by a user: index expressions where they say it, loops (`fp.kernel`) where they do not.

Each computes what a library's operator of that name computes; tests/docs/test_gallery.py compares values and gradients,
docs/gallery/timings.py the times.
"""

import math

import firepot as fp


def conv2d(x, weight, padding=0):
    """As F.conv2d: the product under the sum is recognised and runs as a convolution."""
    (n, c, h, w), (o, _, kh, kw) = x.shape, weight.shape
    return fp.reindex_reduce(
        (n, o, h + 2 * padding - kh + 1, w + 2 * padding - kw + 1), (c, kh, kw),
        lambda n, o, i, j, c, a, b: x[n, c, i + a - padding, j + b - padding] * weight[o, c, a, b],
    )  # fmt: skip


def grouped_conv2d(x, weight, groups, padding=0):
    """As F.conv2d(groups=groups): filter o sees the channels of its group."""
    (n, _, h, w), (filters, c, kh, kw) = x.shape, weight.shape
    each = filters // groups
    return fp.reindex_reduce(
        (n, filters, h + 2 * padding - kh + 1, w + 2 * padding - kw + 1), (c, kh, kw),
        lambda n, o, i, j, k, a, b: x[n, o // each * c + k, i + a - padding, j + b - padding] * weight[o, k, a, b],
    )  # fmt: skip


def depthwise_conv2d(x, weight, padding=0):
    """As F.conv2d with a group for each channel; weight (c, kh, kw)."""
    (n, c, h, w), (_, kh, kw) = x.shape, weight.shape
    return fp.reindex_reduce(
        (n, c, h + 2 * padding - kh + 1, w + 2 * padding - kw + 1), (kh, kw),
        lambda n, c, i, j, a, b: x[n, c, i + a - padding, j + b - padding] * weight[c, a, b],
    )  # fmt: skip


def max_pool2d(x, size):
    """As F.max_pool2d."""
    n, c, h, w = x.shape
    return fp.reindex_reduce(
        (n, c, h // size, w // size), (size, size),
        lambda n, c, i, j, a, b: x[n, c, size * i + a, size * j + b], "max",
    )  # fmt: skip


def avg_pool2d(x, size):
    """As F.avg_pool2d."""
    n, c, h, w = x.shape
    return fp.reindex_reduce(
        (n, c, h // size, w // size), (size, size),
        lambda n, c, i, j, a, b: x[n, c, size * i + a, size * j + b], "mean",
    )  # fmt: skip


def bilinear(x, row, column):
    """x (n, c, h, w) between its pixels, at row and column (n, i, j), zero outside: (n, c, i, j).

    The derivatives by x and by the positions come of themselves.
    """
    r0, c0 = fp.floor(row), fp.floor(column)
    rows, columns = r0.long(), c0.long()
    fr, fc = (row - r0).unsqueeze(1), (column - c0).unsqueeze(1)
    shape = (x.shape[0], x.shape[1], *row.shape[1:])

    def corner(down, right):
        return fp.reindex(shape, lambda n, c, i, j: x[n, c, rows[n, i, j] + down, columns[n, i, j] + right])

    top = corner(0, 0) * (1 - fc) + corner(0, 1) * fc
    bottom = corner(1, 0) * (1 - fc) + corner(1, 1) * fc
    return top * (1 - fr) + bottom * fr


def grid_sample(x, grid):
    """As F.grid_sample(x, grid, align_corners=False)."""
    h, w = x.shape[2:]
    return bilinear(x, ((grid[..., 1] + 1) * h - 1) / 2, ((grid[..., 0] + 1) * w - 1) / 2)


def deform_conv2d(x, offset, weight):
    """As torchvision.ops.deform_conv2d without padding: tap k of the kernel reads at its place plus
    offset[:, 2k : 2k + 2]."""
    h, w = x.shape[2:]
    kh, kw = weight.shape[2:]
    oh, ow = h - kh + 1, w - kw + 1
    i, j = fp.arange(oh).reshape(oh, 1), fp.arange(ow)
    result = 0.0
    for k in range(kh * kw):
        taken = bilinear(x, offset[:, 2 * k] + i + k // kw, offset[:, 2 * k + 1] + j + k % kw)
        result = result + fp.einsum("ncij,oc->noij", taken, weight[:, :, k // kw, k % kw])
    return result


def roi_align_backward(g, x, boxes, size, samples):
    return roi_align_gradient(g, boxes, x.shape[0], x.shape[2], x.shape[3], size, samples), None, None, None


@fp.kernel(
    out=lambda x, boxes, size, samples: ((boxes.shape[0], x.shape[1], size, size), x.dtype), vjp=roi_align_backward
)
def roi_align(x, boxes, size, samples, y):
    """As torchvision.ops.roi_align(x, boxes, size, 1.0, samples), boxes (k, 5): image, x1, y1, x2, y2."""
    h, w = x.shape[2], x.shape[3]
    for k, c in fp.kernel.parallel(len(boxes), x.shape[1]):
        image = int(boxes[k, 0])
        height = max(boxes[k, 4] - boxes[k, 2], 1.0) / size
        width = max(boxes[k, 3] - boxes[k, 1], 1.0) / size
        for i in range(size):
            for j in range(size):
                total = 0.0
                for a in range(samples):
                    for b in range(samples):
                        row = boxes[k, 2] + (i + (a + 0.5) / samples) * height
                        column = boxes[k, 1] + (j + (b + 0.5) / samples) * width
                        if -1.0 <= row <= h and -1.0 <= column <= w:
                            row = min(max(row, 0.0), h - 1.0)
                            column = min(max(column, 0.0), w - 1.0)
                            r, q = math.floor(row), math.floor(column)
                            r1, q1 = min(r + 1, h - 1), min(q + 1, w - 1)
                            fr, fq = row - r, column - q
                            top = x[image, c, r, q] * (1 - fq) + x[image, c, r, q1] * fq
                            bottom = x[image, c, r1, q] * (1 - fq) + x[image, c, r1, q1] * fq
                            total += top * (1 - fr) + bottom * fr
                y[k, c, i, j] = total / (samples * samples)


@fp.kernel(out=lambda g, boxes, n, h, w, size, samples: ((n, g.shape[1], h, w), g.dtype))
def roi_align_gradient(g, boxes, n, h, w, size, samples, dx):
    """Boxes overlap, so the threads share the channels: each adds up its own in order."""
    for c in fp.kernel.parallel(g.shape[1]):
        for k in range(len(boxes)):
            image = int(boxes[k, 0])
            height = max(boxes[k, 4] - boxes[k, 2], 1.0) / size
            width = max(boxes[k, 3] - boxes[k, 1], 1.0) / size
            for i in range(size):
                for j in range(size):
                    share = g[k, c, i, j] / (samples * samples)
                    for a in range(samples):
                        for b in range(samples):
                            row = boxes[k, 2] + (i + (a + 0.5) / samples) * height
                            column = boxes[k, 1] + (j + (b + 0.5) / samples) * width
                            if -1.0 <= row <= h and -1.0 <= column <= w:
                                row = min(max(row, 0.0), h - 1.0)
                                column = min(max(column, 0.0), w - 1.0)
                                r, q = math.floor(row), math.floor(column)
                                r1, q1 = min(r + 1, h - 1), min(q + 1, w - 1)
                                fr, fq = row - r, column - q
                                dx[image, c, r, q] += share * (1 - fr) * (1 - fq)
                                dx[image, c, r, q1] += share * (1 - fr) * fq
                                dx[image, c, r1, q] += share * fr * (1 - fq)
                                dx[image, c, r1, q1] += share * fr * fq


def rotary(x, base=10000.0):
    """Rotary position embedding of x (batch, heads, length, width): pairs (k, k + width / 2) are turned."""
    half = x.shape[-1] // 2
    angle = fp.arange(x.shape[-2]).unsqueeze(1) / base ** (fp.arange(half) / half)
    cos, sin = fp.cos(angle), fp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return fp.cat([first * cos - second * sin, second * cos + first * sin], -1)


@fp.kernel(out=["p", "m", "v"])
def adamw(p, g, m, v, rate, step, new_p, new_m, new_v):
    """One step of AdamW over flat parameters; rate and step (from 1) are 0-d tensors."""
    first = 1 - 0.9 ** float(step)  # in float64, as float() gives: 1 - 0.999 has few digits in float32
    second = 1 - 0.999 ** float(step)
    for i in fp.kernel.parallel(len(p)):
        a = 0.9 * m[i] + 0.1 * g[i]
        b = 0.999 * v[i] + 0.001 * g[i] * g[i]
        new_m[i] = a
        new_v[i] = b
        new_p[i] = p[i] * (1 - rate * 0.01) - rate * (a / first) / (math.sqrt(b / second) + 1e-8)


@fp.kernel(out=lambda boxes, order, threshold: (boxes.shape[:1], fp.bool))
def suppressed(boxes, order, threshold, gone):
    """Boxes (n, 4): x1, y1, x2, y2, from the best to the worst; one that overlaps a better one too much goes."""
    n = len(boxes)
    for a in range(n):
        i = order[a]
        if not gone[i]:
            area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
            for b in range(a + 1, n):
                j = order[b]
                width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                if width > 0 and height > 0:
                    other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
                    shared = width * height
                    if shared > threshold * (area + other - shared):
                        gone[j] = True


def nms(boxes, scores, threshold):
    """As torchvision.ops.nms: the kept boxes' numbers, the best first."""
    order = fp.argsort(scores, descending=True)
    return order[~suppressed(boxes, order, threshold)[order]]
