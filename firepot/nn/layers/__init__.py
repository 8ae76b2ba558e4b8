"""Layers: modules around firepot.nn.functional."""
