"""The numerical core: NumPy arrays in, arrays out.

Whatever is *applied* to a model here uses + - * / and sqrt in a fixed order, so that every machine computes the same
bytes. NumPy's exp, exp2, log, log1p and power differ between CPUs (with AVX-512 and without), and so does BLAS;
`elementary` has the three functions that are needed instead, and lint bans the rest.

Arrays are feature-major: rows of events are ``x`` of shape (n_features, n_rows), centers are (n_features,
n_clusters), so that an operation over one feature is contiguous. Each array argument is marked IN (read only), INOUT
(updated in place) or OUT (overwritten).
"""
