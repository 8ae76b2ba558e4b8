"""Memory budgets: kernels run again instead of keeping what they make, with the same results."""

from __future__ import annotations

import re

import numpy as np
import pytest

import firepot as fp
from firepot import nn
from firepot.compiler import plan_cache, simplify
from firepot.compiler.execute import Executor
from firepot.compiler.program import Program, build
from firepot.compiler.rematerialise import OverBudget, Rematerialiser
from firepot.nn import functional as F
from firepot.runtime.buffer import allocator
from firepot.runtime.program import arena

pytestmark = pytest.mark.usefixtures("no_plans")
LAYERS, WIDTH, BATCH = 12, 32, 512


@pytest.fixture
def no_plans(monkeypatch):
    monkeypatch.setattr(plan_cache, "ENABLED", False)


class Block(nn.Module):
    """Normalisation, product, activation, dropout, residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.dropout = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2)

    def forward(self, x):
        return x + self.dropout(F.gelu(self.linear(self.norm(x))))


def training(memory_budget=None, layers: int = LAYERS):
    """(jitted step, its model, its arguments), the same at every call."""
    fp.manual_seed(3)
    model = nn.Sequential(*[Block() for _ in range(layers)], nn.Linear(WIDTH, 5))
    optimizer = fp.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = fp.randn(BATCH, WIDTH), fp.randint(0, 5, (BATCH,))
    fp.eval(x, y, list(model.state_dict().values()))

    @fp.jit(memory_budget=memory_budget)
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model, (x, y)


def program_of(step) -> Program:
    (trace,) = next(iter(step._traces.values()))
    assert trace.executor.program is not None, "these tests are without plans from disk"
    return trace.executor.program


def rise(step, model, arguments) -> int:
    """Bytes by which the allocator's peak exceeds what there was before the call."""
    for p in model.parameters():
        p.grad = None
    arena().clear()
    allocator().reset_peak()
    before = allocator().current_bytes
    loss = step(*arguments)
    taken = allocator().peak_bytes - before
    del loss
    return taken


def test_a_budget_holds_and_changes_no_result():
    plain, model, arguments = training()
    losses = [plain(*arguments).item() for _ in range(3)]
    needed = program_of(plain).memory
    assert rise(plain, model, arguments) == needed
    budget = int(0.5 * needed)
    step, other, arguments = training(budget)
    assert [step(*arguments).item() for _ in range(3)] == losses
    assert any(s.again for s in program_of(step).steps)
    assert rise(step, other, arguments) <= program_of(step).memory <= budget
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_a_larger_arena_of_an_earlier_program_is_let_go():
    plain, _, arguments = training()
    plain(*arguments)
    step, _, arguments = training(int(0.5 * program_of(plain).memory))
    step(*arguments)
    assert arena().nbytes == program_of(step).arena < program_of(plain).arena
    plain(*arguments)
    assert arena().nbytes == program_of(plain).arena


def test_what_cannot_be_met_is_refused_with_what_can():
    step, model, arguments = training("20 KB")
    before = [p.detach().numpy().copy() for p in model.parameters()]
    with pytest.raises(MemoryError, match=r"step does not fit into memory_budget=20480 \(20.0 KB\)") as refused:
        step(*arguments)
    for p, b in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), b)
        assert p.grad is None
    smallest = int(re.search(r"smallest budget that works is (\d+) bytes", str(refused.value))[1])
    with pytest.raises(MemoryError, match=f"works is {smallest} bytes"):
        training(smallest - 1)[0](*arguments)
    step, _, arguments = training(smallest)
    loss = step(*arguments).item()
    assert program_of(step).memory == smallest
    plain, _, arguments = training()
    assert plain(*arguments).item() == loss


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [(4096, 4096), ("4096", 4096), ("2KB", 2048), ("1.5 GB", 3 << 29), ("3MiB", 3 << 20), ("1 tb", 1 << 40)],
)
def test_amounts(given, bytes_):
    assert fp.jit(lambda x: x, memory_budget=given).memory_budget == bytes_


@pytest.mark.parametrize("given", ["", "2 apples", "-1GB", "GB", 0, -5, "0MB"])
def test_no_amounts(given):
    with pytest.raises(ValueError, match="memory_budget"):
        fp.jit(lambda x: x, memory_budget=given)


@pytest.mark.parametrize("given", [1.5, True, [1]])
def test_other_types_are_no_amounts(given):
    with pytest.raises(TypeError, match="memory_budget must be"):
        fp.jit(lambda x: x, memory_budget=given)


def test_packed_weights_are_not_kept_where_they_do_not_fit():
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    x = fp.randn(64, 256)
    fp.eval(x, list(model.parameters()))
    plain = fp.jit(model)
    with fp.no_grad():
        expected = plain(x)
        kept = sum(program_of(plain).kept().values())
        budget = program_of(plain).memory - kept // 2
        tight = fp.jit(model, memory_budget=budget)
        assert fp.equal(tight(x), expected)
    assert program_of(plain).prepared
    assert not program_of(tight).prepared
    assert program_of(tight).memory <= budget < program_of(plain).memory


def test_explain_tells_budget_and_what_is_run_again():
    plain, _, arguments = training()
    plain(*arguments)
    step, _, arguments = training(int(0.6 * program_of(plain).memory))
    found = fp.explain(step, *arguments)
    again = [k for k in found.kernels if k.again]
    assert again
    assert found.memory_bytes <= found.memory_budget
    assert f"{len(again)} kernels run again" in str(found)
    assert fp.explain(plain, *arguments).memory_budget is None


def compiled(outputs, budget=None):
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    program = build(placeholders, copies, budget=budget)
    values = Executor(program)([leaf.buffer.copy() for leaf in leaves])
    return program, [b.view(n.dtype.numpy, n.shape) for b, n in zip(values, nodes, strict=True)]


def drawn(seed: int) -> list[fp.Tensor]:
    """The gradients of a random chain that has concatenations, sorting, dropout, residual sums and convolutions."""
    random = np.random.default_rng(seed)
    fp.manual_seed(seed)
    x = fp.randn(4, 8, 24, 24)
    weights = [fp.randn(8, 8, 3, 3) * 0.2 for _ in range(4)]
    fp.eval(x, weights)
    for w in weights:
        w.requires_grad = True
    y = kept = x
    for n in range(14):
        kind = random.integers(6)
        if kind == 0:
            y = F.conv2d(y, weights[n % 4], padding=1)
        elif kind == 1:
            y = fp.cat([y[:, :4].sin(), kept[:, 2:4], y[:, 2:4] * 0.5], 1)
        elif kind == 2:
            y = F.dropout(y, 0.3)
        elif kind == 3:
            y = (y - y.mean((0, 2, 3), keepdim=True)).tanh() + kept
        elif kind == 4:
            y = y.sort(-1).values + y.relu()
        else:
            kept = y
            y = y.softmax(1) * y
    y = F.conv2d(y, weights[0])
    loss = (y * y).mean() + sum((w * w).sum() for w in weights)
    return [*fp.autograd.grad(loss, weights), loss]


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs_under_ever_smaller_budgets(seed):
    outputs = drawn(seed)
    program, values = compiled(outputs)
    budget, sizes = program.memory, []
    while True:
        budget = int(budget * 0.75)
        try:
            tight, got = compiled(outputs, budget)
        except OverBudget as refused:
            if refused.smallest < program.memory:
                tight, got = compiled(outputs, refused.smallest)
                assert tight.memory == refused.smallest
                for a, b in zip(got, values, strict=True):
                    np.testing.assert_array_equal(a, b)
            break
        sizes.append(tight.memory)
        assert tight.memory <= budget
        for a, b in zip(got, values, strict=True):
            np.testing.assert_array_equal(a, b)
    assert sizes == sorted(sizes, reverse=True)


def test_a_deep_chain_computes_each_value_again_about_once():
    x = fp.randn(64, 64)
    weights = [fp.randn(64, 64) * 0.2 for _ in range(60)]
    fp.eval(x, weights)
    y = x
    for w in weights:
        w.requires_grad = True
        y = fp.tanh(y @ w)
    loss = y.square().sum()
    gradients = fp.autograd.grad(loss, weights)
    program, values = compiled(gradients)
    tight, got = compiled(gradients, program.memory - program.arena * 3 // 4)
    for a, b in zip(got, values, strict=True):
        np.testing.assert_array_equal(a, b)
    again = [s for s in tight.steps if s.again]
    assert len(again) <= 1.25 * 60
    assert tight.arena <= program.arena // 4


def test_the_plan_keeps_within_its_limit():
    """Counted from the steps alone: from its first to its last operand, a block is alive."""
    outputs = drawn(1)
    program, _ = compiled(outputs)
    nodes = [t._value for t in outputs]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    known: list[Rematerialiser] = []
    original = Rematerialiser.__init__

    def remember(self, *args):
        original(self, *args)
        known.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rematerialiser, "__init__", remember)
        build(placeholders, copies, budget=int(program.memory * 0.8))
    limit = int(program.arena * 0.7)
    steps = known[0].plan(limit, 0.3)
    fixed = {n for n, (kind, _) in program.places.items() if kind != "arena"}
    first, last, size = {}, {}, {}
    for t, step in enumerate(steps):
        for s, _ in step.operands:
            if s.number not in fixed:
                first.setdefault(s.number, t)
                last[s.number] = t
                size[s.number] = s.size * s.dtype.size
    taken_over = sum(bool(step.kernel.aliases) for step in steps)
    assert taken_over
    for t, step in enumerate(steps):
        alive = sum(size[n] for n in size if first[n] <= t < last[n]) + step.kernel.workspace
        assert alive <= limit
