"""Scoring on engines that spread work over processes and machines.

`BatchScorer` is what they call, whatever the engine; `piaa_sdk.engines.ray_data` runs a whole job on Ray.
"""

from piaa_sdk.engines.batch_scorer import BatchScorer

__all__ = ["BatchScorer"]
