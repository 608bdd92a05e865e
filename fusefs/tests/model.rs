//! Random operations, compared after every step with a plain directory.
