"""One adapter a library: each trains a TopK SAE with that library's own trainer, in that library's own environment."""
