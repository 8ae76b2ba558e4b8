"""Batches out of samples."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_KINDS = "biuf"  # the NumPy kinds that a tensor can hold


def default_collate(batch: Sequence[Any]) -> Any:
    """One batch of a list of samples: tensors and arrays stacked along a new first axis, numbers made into
    tensors.

    Keeps named tuples, lists and mappings, and collates their parts; of tuples it makes lists, as PyTorch
    does. Strings and bytes become lists of them.

    >>> images, labels = fp.data.default_collate([(np.zeros((2, 2)), 3), (np.ones((2, 2)), 7)])
    >>> images.shape, labels
    ((2, 2, 2), tensor([3, 7]))

    Raises ValueError if shapes or lengths differ between the samples, TypeError for what it does not know.
    """
    return to_tensors(collate_arrays(batch))


def collate_arrays(batch: Sequence[Any]) -> Any:
    """As default_collate, with NumPy arrays in place of tensors."""
    if not len(batch):
        raise ValueError("collate: the batch is empty")
    first = batch[0]
    if isinstance(first, np.ndarray) or _is_tensor(first):
        arrays = [np.asarray(b if isinstance(b, np.ndarray) else b.detach().numpy()) for b in batch]
        shapes = sorted({a.shape for a in arrays})
        if len(shapes) > 1:
            raise ValueError(
                f"collate: the samples of a batch differ in shape: {', '.join(map(str, shapes[:4]))}; bring them "
                "to one shape (a transform such as Resize or CenterCrop), or pass a collate_fn that pads them"
            )
        return np.stack(arrays)
    if isinstance(first, (bool, np.bool_)):
        return np.array(batch, np.bool_)
    if isinstance(first, np.generic):
        return np.array(batch)
    if isinstance(first, int):
        return np.array(batch, np.int64)
    if isinstance(first, float):
        return np.array(batch, np.float64)
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        for other in batch:
            if other.keys() != first.keys():
                raise ValueError(f"collate: the samples of a batch differ in keys: {list(first)} and {list(other)}")
        return {key: collate_arrays([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        if len({len(sample) for sample in batch}) > 1:
            raise ValueError(f"collate: the samples of a batch differ in length: {sorted({len(s) for s in batch})}")
        parts = [collate_arrays(part) for part in zip(*batch, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*parts)
        return parts
    raise TypeError(
        f"collate: samples hold a {type(first).__module__}.{type(first).__name__}; expected tensors, arrays, "
        "numbers, strings, tuples, lists or mappings of them. Convert it in the data set, or pass a collate_fn"
    )


def default_convert(data: Any) -> Any:
    """What a loader does to samples with batch_size=None: arrays are made into tensors, all else stays.

    >>> default_convert({"image": np.arange(3), "name": "a"})
    {'image': tensor([0, 1, 2]), 'name': 'a'}
    """
    return to_tensors(data)


def to_tensors(value: Any) -> Any:
    """Every NumPy array and scalar within tuples, lists and mappings made into a tensor; the array is copied. Of tuples
    it makes lists, as PyTorch does.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = np.asarray(value)
        if value.dtype.kind not in _KINDS:
            return value.copy()
        from firepot.tensor import node_of, wrap
        from firepot.tracing import outside_trace

        with outside_trace():
            return wrap(node_of(value))
    if isinstance(value, Mapping):
        return {key: to_tensors(part) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [to_tensors(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else parts
    return [to_tensors(part) for part in value] if isinstance(value, list) else value


def _is_tensor(value: Any) -> bool:
    # Whoever has made a tensor has imported its module; a worker without tensors does not pay for the import.
    module = sys.modules.get("firepot.tensor")
    return module is not None and isinstance(value, module.Tensor)
