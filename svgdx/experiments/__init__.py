"""Experiments: each trains into a run folder that can be resumed and drawn."""
