"""Linear models by Newton's method on the Gram matrix, of many features by L-BFGS: a few passes, as fast as rows can be read."""
