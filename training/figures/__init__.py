"""Figures of stored evaluations: one module each, which finds the numbers first and draws them second."""
