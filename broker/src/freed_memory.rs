//! What the process does with memory that it has freed.
//!
//! Every batch is received into memory of its own, which is freed when the batch is stored and sent. As the C
//! library comes, it gives such pieces back to the system and asks for new ones, which the system has to clear
//! page by page: some 12,000 pages per GB at each follower.

#![allow(unsafe_code)]

/// What is larger than this is returned to the system as soon as it is freed. More glibc does not take.
#[cfg(target_env = "gnu")]
const MAPPED_ALONE_BYTES: libc::c_int = 32 << 20;

/// Freed memory at the end of a heap is kept up to this much. There is a heap for each of some threads.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 8 << 20;

/// Has what batches are received into be kept for the next ones. With another C library than glibc, nothing
/// is changed.
pub fn keep_for_batches() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_ALONE_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: it sets a number, under the library's own lock.
        let done = unsafe { libc::mallopt(parameter, bytes) };
        if done == 0 {
            tracing::debug!(parameter, bytes, "the C library does not take a setting");
        }
    }
}
