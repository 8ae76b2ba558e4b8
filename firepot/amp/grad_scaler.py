"""GradScaler: a loss made so large that its gradients survive float16."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from firepot import ops
from firepot.autocast_mode import is_autocast_available
from firepot.grad_mode import no_grad
from firepot.graph import dtypes
from firepot.optim.optimizer import Optimizer
from firepot.tensor import Tensor
from firepot.tracing import depend_on, on_abandon, state_changed


class _Stage(Enum):
    UNSCALED = 1
    STEPPED = 2


class GradScaler:
    """Scales the loss up, the gradients down again, and leaves out the steps whose gradients are not finite.

    The scale grows by growth_factor after growth_interval steps without an infinity or NaN, and shrinks by
    backoff_factor at each one with. bfloat16 has float32's range and needs no scaler; the class is there for code that
    is written with it, and for float16. All of it is tensors: `scale`, `backward`, `step` and `update` can stand in
    one function under `fp.jit`, and nothing waits for a value.

    Args:
        device: accepted for "cpu" and the names of other devices alike; where `enabled` is False all does nothing.
        init_scale, growth_factor, backoff_factor, growth_interval: as above.

    Raises: ValueError for factors on the wrong side of 1.

    >>> model = nn.Linear(3, 1)
    >>> opt = fp.optim.SGD(model.parameters(), lr=0.1)
    >>> scaler = fp.amp.GradScaler("cpu", init_scale=1024.0)
    >>> with fp.autocast("cpu", dtype=fp.float16):
    ...     loss = F.mse_loss(model(fp.ones(4, 3)), fp.zeros(4, 1))
    >>> scaler.scale(loss).backward()
    >>> scaler.step(opt)
    >>> scaler.update()
    >>> scaler.get_scale()
    1024.0

    Micikevicius et al., Mixed precision training (2018).
    """

    def __init__(
        self, device: str = "cpu", init_scale: float = 65536.0, growth_factor: float = 2.0, backoff_factor: float = 0.5,
        growth_interval: int = 2000, enabled: bool = True,
    ) -> None:  # fmt: skip
        is_autocast_available(device)  # refuses what is no device type
        if enabled and growth_factor <= 1.0:
            raise ValueError(f"GradScaler: the growth factor must be > 1.0, got {growth_factor}")
        if enabled and not 0.0 < backoff_factor < 1.0:
            raise ValueError(f"GradScaler: the backoff factor must be > 0.0 and < 1.0, got {backoff_factor}")
        self._device = device
        self._enabled = enabled
        self._growth_factor, self._backoff_factor, self._growth_interval = growth_factor, backoff_factor, growth_interval
        self._scale = ops.tensor(float(init_scale), dtype=dtypes.float32)
        self._growth_tracker = ops.tensor(0, dtype=dtypes.int32)
        # Since the last update(): of each optimiser by id, what was done, and whether a gradient was not finite.
        self._optimizers: dict[int, tuple[_Stage, Tensor]] = {}

    def scale(self, outputs: Any) -> Any:
        """A tensor, or each one in an iterable, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, Iterable):
            scaled = [self.scale(o) for o in outputs]
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else scaled
        raise ValueError(f"GradScaler.scale: expected a tensor or an iterable of tensors, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimiser's parameters by the scale, to clip or to look at them before `step`.

        RuntimeError where that was done already since the last update; ValueError for float16 gradients, which have
        lost what the scale was to save.
        """
        if not self._enabled:
            return
        known = self._optimizers.get(id(optimizer))
        if known is not None:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
                if known[0] is _Stage.UNSCALED
                else "unscale_() is being called after step()."
            )
        self._remember(optimizer, _Stage.UNSCALED, self._unscale(optimizer))

    def _unscale(self, optimizer: Optimizer) -> Tensor:
        with no_grad():
            inverse = (1 / self._scale.to(dtypes.float64)).to(dtypes.float32)
            found = ops.tensor(False)
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    if p.grad.dtype is dtypes.float16:
                        raise ValueError("Attempting to unscale FP16 gradients.")
                    found = found | ~ops.isfinite(p.grad).all()
                    p.grad.mul_(inverse)
        return found

    def _remember(self, optimizer: Optimizer, stage: _Stage, found: Tensor) -> None:
        if not self._optimizers:
            on_abandon(self._optimizers.clear)
        self._optimizers[id(optimizer)] = (stage, found)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step() with the gradients unscaled; it changes nothing if one of them is not finite.

        Returns what optimizer.step() does. RuntimeError for a second step before `update`, and for a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        known = self._optimizers.get(id(optimizer))
        if known is not None and known[0] is _Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if known is None:
            self.unscale_(optimizer)
        _, found = self._optimizers[id(optimizer)]
        self._remember(optimizer, _Stage.STEPPED, found)
        optimizer.found_inf = found
        try:
            return optimizer.step(**kwargs)
        finally:
            optimizer.found_inf = None

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Grow or shrink the scale by what the steps since the last update met, or set it.

        RuntimeError where no gradients were looked at since the last update.
        """
        if not self._enabled:
            return
        settings = (self._growth_factor, self._backoff_factor, self._growth_interval)
        depend_on(self._settings, "a setting of GradScaler", announced=True)
        with no_grad():
            if new_scale is not None:
                value = new_scale if isinstance(new_scale, Tensor) else ops.tensor(float(new_scale))
                if value.numel() != 1 or value.requires_grad:
                    raise RuntimeError("GradScaler.update: new_scale must be a number or a tensor of one element without grad")
                self._scale.copy_(value.reshape(()))
            else:
                if not self._optimizers:
                    raise RuntimeError("GradScaler.update: no inf checks were recorded prior to update.")
                self._adjust(*settings)
        self._optimizers.clear()

    def _adjust(self, growth: float, backoff: float, interval: int) -> None:
        bad = ops.tensor(False)
        for _, found in self._optimizers.values():
            bad = bad | found
        good = self._growth_tracker + 1
        due = good == interval
        grown = self._scale * growth
        grown = ops.where(ops.isfinite(grown), grown, self._scale)
        kept = ops.where(due, grown, self._scale)
        self._scale.copy_(ops.where(bad, self._scale * backoff, kept))
        self._growth_tracker.copy_(ops.where(bad | due, ops.zeros_like(good), good))

    def _settings(self) -> tuple[float, float, int]:
        return self._growth_factor, self._backoff_factor, self._growth_interval

    def get_scale(self) -> float:
        """The scale as a number; 1.0 if scaling is off."""
        return float(self._scale.item()) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        self._growth_factor = new_factor
        state_changed()

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        self._backoff_factor = new_factor
        state_changed()

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        self._growth_interval = new_interval
        state_changed()

    def is_enabled(self) -> bool:
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The settings, the scale and the count of good steps; {} if scaling is off."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(), "growth_factor": self._growth_factor, "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval, "_growth_tracker": int(self._growth_tracker.item()),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what state_dict() gave. RuntimeError for an empty one, of a scaler that was off."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._scale.copy_(ops.tensor(float(state_dict["scale"])))
        self._growth_tracker.copy_(ops.tensor(int(state_dict["_growth_tracker"]), dtype=dtypes.int32))
        state_changed()
