"""How a prior is learned from many people's ratings."""
