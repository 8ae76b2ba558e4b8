"""`fp.signal`, by the names of torch.signal."""

from firepot.ops.signal import windows as windows
