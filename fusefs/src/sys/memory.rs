//! The process's memory.

/// Gives freed memory back to the kernel. The C library keeps it otherwise.
///
/// Source: `malloc_trim(3)`.
pub(crate) fn give_back() {
    // SAFETY: takes a number, and the C library locks its own state.
    unsafe { libc::malloc_trim(0) };
}
