"""The whole job without I/O: records in, commit plan out."""
