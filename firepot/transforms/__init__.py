"""Transforms: functions from graph to graph, such as differentiation."""
