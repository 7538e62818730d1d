"""Rating tables and the pictures they rate, as training and evaluation read them."""
