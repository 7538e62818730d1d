"""Aesthetic attributes of pictures: measured by formulas, or predicted by what people's labels teach."""
