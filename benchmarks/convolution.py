"""Every distinct convolution of ResNet-50 and MobileNetV2: forward, data gradient and weight gradient.

Against oneDNN through PyTorch, in row-major and in channels-last layout, whichever is faster. Firepot's kernels run
as inside a network: activations channels-last, weights row-major.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import machine, models, plots, report
from benchmarks.process import Answer, Peer
from benchmarks.timing import geometric_mean, timed

PEERS = {"firepot": "firepot", "torch": "torch", "torch-channels-last": "torch"}
NETWORKS = {"resnet50": "ResNet-50", "mobilenet_v2": "MobileNetV2"}
MODES = {"forward": "forward", "input_grad": "data gradient", "weight_grad": "weight gradient"}

Results = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A square convolution of `batch` images of `size` × `size`."""

    batch: int
    channels: int
    outputs: int
    size: int
    kernel: int
    stride: int
    padding: int
    groups: int

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def flops(self) -> float:
        """Operations by the definition."""
        taps = self.kernel**2 * self.channels // self.groups
        return 2.0 * self.batch * self.outputs * self.output_size**2 * taps

    def __str__(self) -> str:
        kind = "dw" if self.groups > 1 else f"{self.kernel}×{self.kernel}"
        stride = f"/{self.stride}" if self.stride > 1 else "  "
        return f"{kind:>3}{stride} {self.channels:>4}→{self.outputs:<4} @{self.size:<3}"


def measure(threads: int, rounds: int, seconds: float, results: Results, networks: list[str]) -> None:
    """Fill `results["rows"]`, keeping those of other networks that are there."""
    results["machine"] = machine.describe(threads)
    results["rows"] = [row for row in results.get("rows", []) if row["network"] not in networks]
    peers = [p for p, package in PEERS.items() if importlib.util.find_spec(package) is not None]
    watch = machine.Watch()
    with ExitStack() as stack:
        running = {p: stack.enter_context(Peer("convolution", p, threads)) for p in peers}
        for network in networks:
            answer = running["torch"].ask(do="layers", network=network)
            for number, (layer, count) in enumerate(answer["layers"]):
                for mode in MODES:
                    if number == 0 and mode == "input_grad":
                        continue  # nobody asks for the gradient of the images
                    row = {"network": network, "layer": layer, "count": count, "mode": mode, "times": {}}
                    for _ in range(rounds):
                        for p, peer in running.items():
                            answer = peer.ask(do="time", layer=layer, mode=mode, seconds=seconds)
                            if "times" in answer:
                                row["times"].setdefault(p, []).append(answer["times"])
                            else:
                                row.setdefault("errors", {})[p] = answer["error"]
                    results["rows"].append(row)
    results.setdefault("others", {}).update(dict.fromkeys(networks, watch.others()))
    order = list(NETWORKS)
    results["rows"].sort(key=lambda row: order.index(row["network"]))


def layers_of(network: str) -> list[tuple[Layer, int]]:
    """The distinct convolutions of PyTorch's model in order, and how often each occurs."""
    import torch

    with torch.device("meta"):
        model = models.build(network, torch)
    found: dict[Layer, int] = {}

    def seen(module: Any, inputs: tuple[Any, ...], _: Any) -> None:
        batch, channels, size, _ = inputs[0].shape
        layer = Layer(
            batch, channels, module.out_channels, size, module.kernel_size[0], module.stride[0], module.padding[0],
            module.groups,
        )  # fmt: skip
        found[layer] = found.get(layer, 0) + 1

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(seen)
    model(torch.empty(models.WORK[network][0], device="meta"))
    return list(found.items())


def open_peer(name: str, threads: int) -> Callable[[Answer], Answer]:
    """What runs in the peer's process: answers `layers` and `time`."""
    calls: dict[Any, Callable[[], Any]] = {}

    def answer(question: Answer) -> Answer:
        if question["do"] == "layers":
            return {"layers": [(asdict(layer), count) for layer, count in layers_of(question["network"])]}
        layer, mode = Layer(**question["layer"]), question["mode"]
        if (layer, mode) not in calls:
            calls.clear()
            call = firepot_call if name == "firepot" else _torch_call
            calls[layer, mode] = call(layer, mode, threads, name == "torch-channels-last")
            calls[layer, mode]()
        return {"times": timed(calls[layer, mode], question["seconds"])}

    return answer


def _torch_call(layer: Layer, mode: str, threads: int, channels_last: bool) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, w, y = (torch.randn(s).contiguous(memory_format=layout) for s in _shapes(layer))
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if mode == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return torch.conv2d(x, w, None, stride, padding, 1, layer.groups)

        return forward
    mask = [mode == "input_grad", mode == "weight_grad", False]
    backward = torch.ops.aten.convolution_backward
    return lambda: backward(y, x, w, None, stride, padding, [1, 1], False, [0, 0], layer.groups, mask)


def firepot_call(layer: Layer, mode: str, threads: int, _: bool = True) -> Callable[[], Any]:
    """Runs the kernel that a network would, on buffers of its own."""
    import numpy as np

    from firepot.graph.dtypes import float32
    from firepot.kernels.llvm.convolution import Convolution, lower, result_lane
    from firepot.kernels.llvm.epilogue import StoreEpilogue
    from firepot.runtime import pool
    from firepot.runtime.buffer import Buffer
    from firepot.runtime.processor import processor
    from firepot.runtime.program import ARENA, FIRST, Executable, Operand, Step

    pool.set_num_threads(threads)
    x, w, y = _shapes(layer)
    strides = {"x": _last(x), "w": _first(w), "y": _last(y)}
    first, second, result = {"forward": "xwy", "input_grad": "ywx", "weight_grad": "xyw"}[mode]
    convolution = Convolution(
        mode, layer.batch, layer.groups, layer.channels, layer.outputs, (1, layer.size, layer.size),
        (1, layer.kernel, layer.kernel), (1, layer.output_size, layer.output_size), (1, layer.stride, layer.stride),
        (1, 1, 1), (0, layer.padding, layer.padding), strides[first], strides[second], strides[result], float32, float32,
    )  # fmt: skip
    epilogue = StoreEpilogue(2, strides[result], float32, lane=result_lane(convolution))
    kernel = lower(convolution, epilogue, processor())
    random = np.random.default_rng(0)
    buffers = []
    for name in (first, second, result):
        shape = {"x": x, "w": w, "y": y}[name]
        buffer = Buffer.empty(4 * math.prod(shape))
        buffer.view(np.dtype(np.float32), shape)[...] = random.standard_normal(shape, np.float32)
        buffers.append(buffer)
    places = [Operand(FIRST + i) for i in range(3)] + ([Operand(ARENA)] if kernel.workspace else [])
    executable = Executable([Step(kernel, tuple(places))], 3, kernel.workspace)
    addresses = [b.address for b in buffers]

    def run() -> Buffer:
        executable.run(addresses)
        return buffers[2]

    return run


def _shapes(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Of the input, the weight and the output."""
    return (
        (layer.batch, layer.channels, layer.size, layer.size),
        (layer.outputs, layer.channels // layer.groups, layer.kernel, layer.kernel),
        (layer.batch, layer.outputs, layer.output_size, layer.output_size),
    )


def _last(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Channels-last strides of (N, C, 1, H, W)."""
    _, c, h, w = shape
    return (h * w * c, 1, h * w * c, w * c, c)


def _first(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Row-major strides of (O, I, 1, H, W)."""
    _, c, h, w = shape
    return (c * h * w, h * w, h * w, w, 1)


# What it says.


def ratio(row: dict[str, Any]) -> float | None:
    """PyTorch's time in its best layout over Firepot's."""
    theirs = [report.median(row["times"][p]) for p in PEERS if p != "firepot" and row["times"].get(p)]
    if not theirs or not row["times"].get("firepot"):
        return None
    return min(theirs) / report.median(row["times"]["firepot"])


def table(rows: list[dict[str, Any]], peak: float) -> report.Table:
    """Milliseconds of each library, and Firepot's share of the multiply-add peak (minimal filtering may pass it)."""
    result = [["layer", "times", "", "Firepot", "PyTorch", "channels-last", "best ÷ Firepot", "of peak"]]
    for row in rows:
        layer = Layer(**row["layer"])
        medians = {p: report.median(row["times"][p]) for p in PEERS if row["times"].get(p)}
        cells = [report.number(1e3 * medians[p]) if p in medians else "failed" for p in PEERS]
        found = ratio(row)
        share = f"{100 * layer.flops * 1e-9 / medians['firepot'] / peak:.0f} %" if "firepot" in medians else "–"
        name = " ".join(str(layer).split())
        result.append([name, str(row["count"]), MODES[row["mode"]], *cells, f"{found:.2f}" if found else "–", share])
    return result


def document(results: Results) -> str:
    parts = [
        "## Convolutions",
        machine.sentence(results["machine"]),
        machine.warning(results.get("others", {})),
        "![Firepot against oneDNN, layer by layer](convolution.png)",
        _counts(results["rows"]),
    ]
    parts += [f"[Every row](convolution.md) ({len(results['rows'])})"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(rows: list[dict[str, Any]]) -> str:
    lines = []
    for network, title in NETWORKS.items():
        for mode, name in MODES.items():
            found = [r for row in rows if row["network"] == network and row["mode"] == mode and (r := ratio(row))]
            if found:
                ahead = sum(r > 1 for r in found)
                lines.append([title, name, f"{ahead} of {len(found)}", f"{geometric_mean(found):.2f}", f"{min(found):.2f}"])
    total = [r for row in rows if (r := ratio(row))]
    share = f"{sum(r > 1 for r in total)} of {len(total)} ({100 * sum(r > 1 for r in total) / len(total):.0f} %)"
    lines.append(["both", "all", share, f"{geometric_mean(total):.2f}", f"{min(total):.2f}"])
    return report.markdown([["network", "", "rows ahead of oneDNN", "geometric mean", "lowest"], *lines])


def plot(results: Results, path: Any) -> None:
    """A heat-map a network: layers down, modes across."""
    networks = [n for n in NETWORKS if any(row["network"] == n for row in results["rows"])]
    grids = {}
    for network in networks:
        cells: dict[str, dict[str, float | None]] = {}
        for row in results["rows"]:
            if row["network"] == network:
                cells.setdefault(str(Layer(**row["layer"])), {})[row["mode"]] = ratio(row)
        grids[network] = cells
    height = 1.3 + 0.235 * max(len(cells) for cells in grids.values())
    figure, axes = plots.new_figure(5.6 * len(networks), height, len(networks))
    for panel, (network, cells) in zip(axes, grids.items(), strict=True):
        ratios = [[row.get(mode) for mode in MODES] for row in cells.values()]
        plots.heat_map(panel, list(cells), list(MODES.values()), ratios, f"{NETWORKS[network]}: oneDNN's time over Firepot's")
    plots.save(figure, path)
