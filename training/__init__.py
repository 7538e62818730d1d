"""Meta-training and evaluation, run from a checkout: ``python -m training``. Not part of the wheel."""
