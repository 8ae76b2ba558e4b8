"""The primitives, one file a family. Everything a person calls is composed from these."""

from firepot.graph.primitives import complex as complex  # with it, the element-wise ones know what to do with parts
