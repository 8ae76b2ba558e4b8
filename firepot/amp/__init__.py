"""`fp.amp`, by the names of torch.amp: mixed precision."""

from firepot.amp.custom_rules import custom_bwd as custom_bwd
from firepot.amp.custom_rules import custom_fwd as custom_fwd
from firepot.amp.grad_scaler import GradScaler as GradScaler
from firepot.autocast_mode import autocast as autocast
from firepot.autocast_mode import is_autocast_available as is_autocast_available

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
