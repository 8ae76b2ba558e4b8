"""One entry of PyTorch's operator database: values, dtypes, derivatives and errors of every sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import firepot as fp
from conformance.convert import DTYPES, Untranslatable, back, difference, flatten, value
from conformance.provided import COMPLEX, DOUBLE, LOGARITHMS, NUMERICAL, RANDOM, REASONS, SIGNS, TIES, function, name_of
from conformance.transformed import Call, captured, mapped

VALUES = {
    "float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool,
    "float16": torch.float16, "bfloat16": torch.bfloat16, "complex64": torch.complex64,
}  # fmt: skip
GRADIENTS = {"gradient": ("second", torch.float64), "complex gradient": ("complex second", torch.complex128)}
CHECKS = (*VALUES, "gradient", "second", "complex gradient", "complex second", "errors", "vmap", "jit")
_BATCH = 24  # samples computed as one program
_TRANSFORMED = 4  # samples of an entry under transforms, at most: each is several programs


class Tally:
    """Counts of one check, with the first failures in words."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.reasons: list[str] = []
        self.skips: set[str] = set()

    def add(self, wrong: str | None, what: str = "") -> None:
        if wrong is None:
            self.passed += 1
            return
        self.failed += 1
        if len(self.reasons) < 4:
            self.reasons.append(f"{wrong} {what}".strip()[:400])

    def skip(self, reason: str) -> None:
        self.skipped += 1
        self.skips.add(reason)

    def report(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "failed": self.failed, "skipped": self.skipped, "reasons": self.reasons,
            "skips": sorted(self.skips),
        }  # fmt: skip


def entries() -> dict[str, Any]:
    """The database by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {name_of(op): op for op in op_db}


def check(entry: Any, samples: int | None = None, checks: Sequence[str] = CHECKS) -> dict[str, Any]:
    """Everything that is compared of one entry; at most `samples` of each check, spread over all there are."""
    name = name_of(entry)
    ours = function(entry)
    if ours is None:
        return {"entry": name, "missing": REASONS.get(name, "not written yet")}
    result: dict[str, Any] = {"entry": name, "checks": {}}
    for kind in checks:
        tally = Tally()
        if kind in VALUES:
            if VALUES[kind] not in entry.dtypes:
                continue
            _values(entry, ours, VALUES[kind], name in RANDOM, samples, tally)
        elif kind in GRADIENTS:
            again, dtype = GRADIENTS[kind]
            if not entry.supports_autograd or dtype not in entry.dtypes or name in RANDOM:
                continue
            second = Tally()
            _derivatives(entry, ours, dtype, samples, tally, second)
            if entry.supports_gradgrad and again in checks:
                result["checks"][again] = second.report()
        elif kind == "errors":
            if entry.error_inputs_func is None:
                continue
            _errors(entry, ours, samples, tally)
        elif kind in ("vmap", "jit"):
            if name in RANDOM:
                continue
            _transformed(entry, ours, kind, min(samples or _TRANSFORMED, _TRANSFORMED), tally)
        else:
            continue
        result["checks"][kind] = tally.report()
    return result


def _chosen(given: Iterator[Any], samples: int | None) -> list[Any]:
    everything = list(given)
    if samples is None or len(everything) <= samples:
        return everything
    return [everything[i * len(everything) // samples] for i in range(samples)]


def _call(target: Callable[..., Any], input: Any, args: Any, kwargs: Any) -> Any:
    return target(input, *args, **kwargs)


def _derived(entry: Any, target: Callable[..., Any], input: Any, args: Any, kwargs: Any) -> Any:
    """The call whose derivative is compared: of a symmetric matrix where only such ones have a meaning."""
    if entry.gradcheck_wrapper.__name__ == "gradcheck_wrapper_hermitian_input":
        input = input + input.mH
    return _call(target, input, args, kwargs)


def _describe(sample: Any) -> str:
    def short(v: Any) -> str:
        if isinstance(v, torch.Tensor):
            return f"{str(v.dtype).removeprefix('torch.')}{list(v.shape)}"
        if isinstance(v, (list, tuple)):
            return "(" + ", ".join(map(short, v)) + ")"
        return repr(v)[:40]

    named = [f"{k}={short(v)}" for k, v in sample.kwargs.items()]
    return "on " + ", ".join([short(sample.input), *map(short, sample.args), *named])


def _left_out(entry: Any, sample: Any) -> str | None:
    """Why a sample cannot be compared, or None."""
    if sample.kwargs.get("dropout_p"):
        return "random numbers"
    if entry.name == "nn.functional.multi_head_attention_forward" and sample.args[9] and sample.kwargs.get("training", True):
        return "random numbers"
    x = sample.input
    if entry.name.startswith("as_strided") and x.untyped_storage().nbytes() != x.numel() * x.element_size():
        return "a view of a larger storage, which Firepot does not have"
    return None


def _each(v: Any, change: Callable[[Any], Any]) -> Any:
    """An argument, containers included, with `change` made of every value in it."""
    if isinstance(v, dict):
        return {k: _each(x, change) for k, x in v.items()}
    if type(v) in (list, tuple):
        return type(v)(_each(x, change) for x in v)
    return change(v)


def _copied(given: Any) -> Any:
    def copy(v: Any) -> Any:
        if not isinstance(v, torch.Tensor) or v.layout is not torch.strided:
            return v
        return v.detach().clone().requires_grad_(v.requires_grad)

    return _each(given, copy)


def _widened(given: Any, keep: bool = False) -> Any:
    """In double precision; `keep`: what needs a gradient still does."""

    def widen(v: Any) -> Any:
        if isinstance(v, torch.Tensor):
            if not (v.is_floating_point() or v.is_complex()):
                return v
            return v.detach().to(torch.promote_types(v.dtype, torch.float64)).requires_grad_(keep and v.requires_grad)
        if v in (torch.float16, torch.bfloat16, torch.float32):
            return torch.float64
        return torch.complex128 if v is torch.complex64 else v

    return _each(given, widen)


def _own_leaves(given: Any) -> Any:
    """Views that a sample made while gradients were off, which say that they need one and get none, as tensors of their own."""
    known: dict[int, torch.Tensor] = {}

    def own(v: Any) -> Any:
        if not (isinstance(v, torch.Tensor) and v.requires_grad and v.is_leaf and v._is_view()):
            return v
        return known.setdefault(id(v), v.detach().clone().requires_grad_())

    return _each(given, own)


def _failure(error: BaseException) -> str:
    return f"raised {type(error).__name__}: {error}"


def _values(entry: Any, ours: Any, dtype: torch.dtype, shape_only: bool, samples: int | None, tally: Tally) -> None:
    waiting: list[tuple[Any, Any, list[Any]]] = []
    for sample in _chosen(entry.sample_inputs("cpu", dtype), samples):
        if reason := _left_out(entry, sample):
            tally.skip(reason)
            continue
        try:
            given = value([sample.input, sample.args, sample.kwargs])
        except Untranslatable as reason:
            tally.skip(str(reason))
            continue
        try:
            torch.manual_seed(0)
            theirs = list(flatten(_call(entry.op, *_copied([sample.input, sample.args, sample.kwargs]))))
        except Exception as error:  # PyTorch does not take its own sample in this dtype
            tally.skip(f"PyTorch raised {type(error).__name__}")
            continue
        if any(isinstance(t, torch.Tensor) and t.layout is not torch.strided for t in theirs):
            tally.skip("sparse result")
            continue
        if any(isinstance(t, torch.Tensor) and t.dtype not in DTYPES for t in theirs):
            tally.skip(COMPLEX)
            continue
        try:
            with fp.no_grad():
                result = list(flatten(_call(ours, *given)))
        except Exception as error:
            tally.add(_failure(error), _describe(sample))
            continue
        waiting.append((sample, theirs, result))
        if len(waiting) == _BATCH:
            _compare(entry, waiting, shape_only, tally)
            waiting = []
    _compare(entry, waiting, shape_only, tally)


def _compute(results: Sequence[Sequence[Any]]) -> list[str | None]:
    """Compute all in one program; where that fails one by one, to find out which."""
    try:
        fp.eval(*[list(r) for r in results])
        return [None] * len(results)
    except Exception:
        failures: list[str | None] = []
        for r in results:
            try:
                fp.eval(list(r))
                failures.append(None)
            except Exception as error:
                failures.append(_failure(error))
        return failures


def _compare(entry: Any, waiting: list[tuple[Any, Any, list[Any]]], shape_only: bool, tally: Tally) -> None:
    for (sample, theirs, ours), failure in zip(waiting, _compute([w[2] for w in waiting]), strict=True):
        if failure is None:
            failure = _disagreement(entry, sample, theirs, ours, shape_only)
        tally.add(failure, _describe(sample) if failure else "")


def _disagreement(entry: Any, sample: Any, theirs: list[Any], ours: list[Any], shape_only: bool) -> str | None:
    if len(theirs) != len(ours):
        return f"gave {len(ours)} results, expected {len(theirs)}"
    exact: list[Any] | None = None
    for place, (t, o) in enumerate(zip(theirs, ours, strict=True)):
        vectors = entry.name != "linalg.eig" or place == 1  # eigenvalues there are complex, and not to be made positive
        if entry.name in SIGNS and vectors and (t.is_floating_point() or t.is_complex()):
            o, t = o.abs(), t.abs()
            if "svd" in entry.name and place != 1:  # vectors beyond the singular values are arbitrary
                k = theirs[1].shape[-1]
                rows = place == 2 and entry.name == "linalg.svd"
                o, t = (o[..., :k, :], t[..., :k, :]) if rows else (o[..., :k], t[..., :k])
        logarithms = entry.name in LOGARITHMS and t.is_complex()
        if logarithms:
            o, t = o.exp(), t.exp()
        wrong = difference(o, t, None, shape_only)
        if wrong and entry.name in TIES and not sample.kwargs.get("stable"):
            wrong = _same_elements(entry, sample, o, t, wrong)
        numbers = isinstance(t, torch.Tensor) and (t.is_floating_point() or t.is_complex())
        if wrong and "elements differ" in wrong and numbers:
            if exact is None:
                try:
                    exact = list(flatten(_call(entry.op, *_widened([sample.input, sample.args, sample.kwargs]))))
                except Exception:
                    exact = []
            if place < len(exact):
                best = exact[place].to(torch.promote_types(exact[place].dtype, torch.float64))
                wrong = difference(o, t, best.exp() if logarithms else best)
        if wrong:
            return wrong
    return None


def _same_elements(entry: Any, sample: Any, ours: Any, theirs: Any, wrong: str) -> str | None:
    """Positions may differ where equal elements leave a choice."""
    if not isinstance(theirs, torch.Tensor) or theirs.dtype is not torch.int64 or "elements differ" not in wrong:
        return wrong
    place = 1 if entry.name in ("topk", "kthvalue") else 0  # of dim, behind the count that some have
    dim = sample.kwargs.get("dim", sample.args[place] if len(sample.args) > place else -1)
    found = []
    for positions in (back(ours), theirs):
        if positions.dim() < sample.input.dim():
            positions = positions.unsqueeze(dim)
        found.append(torch.gather(sample.input, dim, positions))
    return None if torch.equal(torch.nan_to_num(found[0]), torch.nan_to_num(found[1])) else wrong


# -- derivatives -----------------------------------------------------------------------------------------------------


def _leaves(given: Any) -> list[Any]:
    return [t for t in flatten(given) if isinstance(t, (torch.Tensor, fp.Tensor)) and t.requires_grad]


def _weights(outputs: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, dtype=o.dtype, generator=generator) for o in outputs]


def _processed(entry: Any, process: Any, results: Any) -> Any:
    results = results if process is None else process(results)
    return [abs(r) for r in flatten(results)] if entry.name in SIGNS else results


def _derivatives(
    entry: Any, ours: Any, dtype: torch.dtype, samples: int | None, first: Tally, second: Tally
) -> None:
    waiting: list[Any] = []
    for sample in _chosen(entry.sample_inputs("cpu", dtype, requires_grad=True), samples):
        arguments = _own_leaves([sample.input, sample.args, sample.kwargs])
        if name_of(entry) in DOUBLE:
            arguments = _widened(arguments, keep=True)
        if reason := _left_out(entry, sample):
            first.skip(reason)
            continue
        try:
            given = value(arguments)
            theirs = _their_derivatives(entry, sample, arguments)
        except Untranslatable as reason:
            first.skip(str(reason))
            continue
        except Exception as error:
            first.skip(f"PyTorch raised {type(error).__name__}: {str(error)[:80]}")
            continue
        if theirs is None:
            continue
        try:
            found = _our_derivatives(entry, ours, sample, given, theirs)
        except Exception as error:
            first.add(_failure(error), _describe(sample))
            continue
        waiting.append((sample, arguments, theirs, found))
        if len(waiting) == _BATCH // 2:
            _compare_derivatives(entry, waiting, first, second)
            waiting = []
    _compare_derivatives(entry, waiting, first, second)


def _their_derivatives(entry: Any, sample: Any, arguments: Any) -> Any:
    """(numbers of the differentiable outputs, weights, gradients, weights, second derivatives or None)."""
    leaves = _leaves(arguments)
    results = _processed(entry, sample.output_process_fn_grad, _derived(entry, entry.op, *arguments))
    outputs = list(flatten(results))
    numbers = [i for i, o in enumerate(outputs) if isinstance(o, torch.Tensor) and o.requires_grad]
    if not numbers or not leaves:
        return None
    chosen = [outputs[i] for i in numbers]
    weights = _weights(chosen, 1)
    double = bool(entry.supports_gradgrad)
    gradients = torch.autograd.grad(chosen, leaves, weights, create_graph=double, allow_unused=True)
    again, more = None, None
    if double:
        places = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        more = _weights([gradients[i] for i in places], 2)
        again = (
            torch.autograd.grad([gradients[i] for i in places], leaves, more, allow_unused=True)
            if places
            else [None] * len(leaves)
        )
        more = dict(zip(places, more, strict=True))
    return numbers, weights, gradients, more, again


def _our_derivatives(entry: Any, ours: Any, sample: Any, given: Any, theirs: Any) -> Any:
    numbers, weights, _, more, again = theirs
    leaves = _leaves(given)
    outputs = list(flatten(_processed(entry, sample.output_process_fn_grad, _derived(entry, ours, *given))))
    chosen = [outputs[i] for i in numbers]
    for o in chosen:
        if not o.requires_grad:
            raise RuntimeError("the result does not require grad")
    gradients = fp.autograd.grad(
        chosen, leaves, [value(w) for w in weights], create_graph=again is not None, allow_unused=True
    )
    found = None
    problem = None
    if again is not None:
        places = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad and i in more]
        try:
            found = (
                fp.autograd.grad(
                    [gradients[i] for i in places], leaves, [value(more[i]) for i in places], allow_unused=True
                )
                if places
                else [None] * len(leaves)
            )
        except Exception as error:
            problem = _failure(error)
    return gradients, found, problem


def _compare_derivatives(entry: Any, waiting: list[Any], first: Tally, second: Tally) -> None:
    results = [[g for g in (*w[3][0], *(w[3][1] or ())) if g is not None] for w in waiting]
    for (sample, arguments, theirs, ours), failure in zip(waiting, _compute(results), strict=True):
        _, _, gradients, _, again = theirs
        leaves = _leaves(arguments)
        wrong = failure or _gradients_differ(ours[0], gradients, leaves)
        if wrong and not failure and name_of(entry) in NUMERICAL:
            wrong = _numerically(entry, sample, arguments, theirs, ours[0], False)
        first.add(wrong, _describe(sample) if wrong else "")
        if again is not None:
            wrong = failure or ours[2] or _gradients_differ(ours[1], again, leaves)
            if wrong and not failure and not ours[2] and name_of(entry) in NUMERICAL:
                wrong = _numerically(entry, sample, arguments, theirs, ours[1], True)
            second.add(wrong, _describe(sample) if wrong else "")


def _numerically(entry: Any, sample: Any, arguments: Any, theirs: Any, ours: Any, second: bool) -> str | None:
    """What is wrong with our gradients (or second derivatives) by central differences of PyTorch's values (or gradients)
    along a direction that is drawn."""
    numbers, weights, _, more, _ = theirs
    leaves = _leaves(arguments)
    direction = _weights(leaves, 3)

    def weighted(values: Sequence[Any], by: Sequence[torch.Tensor]) -> float:
        return sum(float((w.conj() * v.detach()).real.sum()) for v, w in zip(values, by, strict=True) if v is not None)

    def at(step: float) -> float:
        given = _copied(arguments)
        moved = _leaves(given)
        with torch.no_grad():
            for leaf, d in zip(moved, direction, strict=True):
                leaf.add_(d, alpha=step)
        results = list(flatten(_processed(entry, sample.output_process_fn_grad, _derived(entry, entry.op, *given))))
        chosen = [results[i] for i in numbers]
        if not second:
            return weighted(chosen, weights)
        gradients = torch.autograd.grad(chosen, moved, weights, allow_unused=True)
        return weighted([gradients[i] for i in more], list(more.values()))

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    found = weighted([None if g is None else back(g) for g in ours], direction)
    if abs(found - slope) <= 1e-6 * (1 + abs(slope)):
        return None
    return f"{found:.9g} along a direction in which central differences give {slope:.9g}"


def _gradients_differ(ours: Any, theirs: Any, leaves: Any) -> str | None:
    for number, (o, t, leaf) in enumerate(zip(ours, theirs, leaves, strict=True)):
        if t is None:
            t = torch.zeros_like(leaf)
        if o is None:
            o = fp.zeros(tuple(leaf.shape), dtype=DTYPES[leaf.dtype])
        wrong = difference(o, t)
        if wrong:
            return f"argument {number}: {wrong}"
    return None


# -- errors ----------------------------------------------------------------------------------------------------------


def _errors(entry: Any, ours: Any, samples: int | None, tally: Tally) -> None:
    for bad in _chosen(entry.error_inputs("cpu"), samples):
        sample = bad.sample_input
        if entry.name.startswith("__r") and not isinstance(sample.input, torch.Tensor):
            tally.skip("an operator of Python on two of its own numbers")
            continue
        if bad.error_regex == "" and any(isinstance(v, torch.Tensor) for v in (sample.input, *sample.args)):
            tally.skip("a Python number as one operand, which the array API standard allows")
            continue
        try:
            given = value([sample.input, sample.args, sample.kwargs])
        except Untranslatable as reason:
            tally.skip(str(reason))
            continue
        try:
            fp.eval([t for t in flatten(_call(ours, *given)) if isinstance(t, fp.Tensor)])
        except Exception:
            tally.add(None)
            continue
        tally.add(f"did not raise ({bad.error_type.__name__}: {bad.error_regex[:120]})", _describe(sample))


# -- transforms ------------------------------------------------------------------------------------------------------


def _transformed(entry: Any, ours: Any, kind: str, samples: int, tally: Tally) -> None:
    """Samples under vmap or jit, against the same calls without it."""
    dtype = next((d for d in (torch.float32, *VALUES.values()) if d in entry.dtypes), None)
    if dtype is None:  # complex numbers only, or another device's
        return
    waiting: list[tuple[str, list[Any], list[Any]]] = []
    for number, sample in enumerate(_chosen(entry.sample_inputs("cpu", dtype), samples)):
        try:
            if reason := _left_out(entry, sample):
                raise Untranslatable(reason)
            call = Call(ours, value(_widened([sample.input, sample.args, sample.kwargs])))
            ways = mapped(call, number, number == 0) if kind == "vmap" else captured(call)
        except Untranslatable as reason:
            tally.skip(str(reason))
            continue
        except Exception:  # the values' own check reports it
            continue
        for way, transformed, plain in ways:
            try:
                expected = plain()
                fp.eval(expected)
            except Untranslatable as reason:
                tally.skip(str(reason))
                continue
            except (RuntimeError, ValueError) as error:  # a matrix that is singular now, a value out of range
                tally.skip(f"an example outside of the function's domain ({type(error).__name__})")
                continue
            try:
                waiting.append((f"{way} {_describe(sample)}", transformed(), expected))
            except fp.TraceError:
                tally.skip("values that the function reads, so that it can only raise")
            except Exception as error:
                if "from outside was changed in place" in str(error):
                    tally.skip("running statistics, which cannot differ between examples")
                else:
                    tally.add(_failure(error), f"{way} {_describe(sample)}")
    for (what, found, expected), failure in zip(waiting, _compute([w[1] for w in waiting]), strict=True):
        wrong = failure
        if wrong is None and len(found) != len(expected):
            wrong = f"gave {len(found)} results, expected {len(expected)}"
        for f, e in zip(found, expected, strict=True) if wrong is None else ():
            if entry.name in SIGNS and f.dtype.is_floating_point:
                f, e = f.abs(), e.abs()
            wrong = wrong or difference(f, back(e))
        tally.add(wrong, what if wrong else "")
