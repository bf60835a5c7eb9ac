"""Linear models by Newton's method on the Gram matrix: a few passes over shards, each as fast as they can be read."""
