"""From a checkpoint to a bundle folder, run from a checkout: ``python -m export``. Not part of the wheel."""
