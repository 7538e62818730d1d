"""A small prior for tests."""

from __future__ import annotations

import numpy as np

from piaa_sdk.head import AdaptationGrid, Prior

TINY_DIM = 16


def tiny_prior(*, seed: int = 0, dim: int = TINY_DIM, **changes: object) -> Prior:
    """Make a prior for embeddings of about unit variance per axis, as the tiny graph gives them.

    The grid is small and of the shape of a real one; the generic head is random.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "curved_metric": (rng.uniform(0.5, 1.5, dim) / np.sqrt(dim)).astype(np.float32),
        "generic_metric": (rng.uniform(0.5, 1.5, dim) / np.sqrt(dim)).astype(np.float32),
        "linear_scale": 1 / dim,
        "length_scale": 0.5,
        "centers": rng.normal(size=(7, dim)).astype(np.float16) / np.float16(4),
        "center_weights": rng.normal(size=7).astype(np.float32),
        "center_offset": 0.1,
        "arc_bias": 0.1,
        "generic_mean": 0.55,
        "generic_std": 0.12,
        "grid": AdaptationGrid(
            linear_shares=np.array([0.5, 0.0]),
            slopes=np.array([[0.45, 0.0], [0.2, 0.2]]),
            noises=np.array([0.25, 1.0, 4.0]),
        ),
        "slope_unit": 0.2,
        "offset_mean": 0.5,
        "offset_variance": 2.0,
        "variance_scale": 0.03,
        "variance_degrees": 4.0,
        "std_factor": 1.1,
    }
    return Prior(**{**values, **changes})  # type: ignore[arg-type]
