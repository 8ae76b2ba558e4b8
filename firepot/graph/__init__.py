"""The graph: dtypes, symbolic indices, nodes and the primitives they apply."""
