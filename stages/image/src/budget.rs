//! Memory for images in decoding, shared by all threads of the process: a small file may be a large picture.

use std::sync::{Condvar, Mutex, PoisonError};

use super::DecodeError;

/// The default of [`super::DecodeOptions::budget_bytes`]: 1 GiB, which every picture of 8 bits a sample within the default
/// of [`super::DecodeOptions::max_pixels`] fits in.
pub const DEFAULT_BUDGET_BYTES: u64 = 1 << 30;

/// Bytes in use.
static USED: Mutex<u64> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share(u64);

/// Waits until `bytes` are free of a budget of `limit`. Nobody who has a share asks for another, so the waiting ends.
///
/// # Errors
/// When the picture alone needs more than there is.
pub(super) fn take(bytes: u64, limit: u64, (width, height): (u32, u32)) -> Result<Share, DecodeError> {
    if bytes > limit {
        return Err(DecodeError::TooManyBytes { width, height, bytes, limit });
    }
    let used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut used =
        GIVEN_BACK.wait_while(used, |used| *used + bytes > limit).unwrap_or_else(PoisonError::into_inner);
    *used += bytes;
    Ok(Share(bytes))
}

impl Drop for Share {
    fn drop(&mut self) {
        *USED.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering::SeqCst},
        thread,
    };

    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_one_that_is_too_large_is_refused() {
        const LIMIT: u64 = 1 << 40;
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..8_u64 {
                let (now, most) = (&now, &most);
                scope.spawn(move || {
                    for turn in 0..200_u64 {
                        let bytes = LIMIT / (2 + (n + turn) % 5);
                        let share = take(bytes, LIMIT, (1, 1)).expect("it fits");
                        most.fetch_max(now.fetch_add(bytes, SeqCst) + bytes, SeqCst);
                        now.fetch_sub(bytes, SeqCst);
                        drop(share);
                    }
                });
            }
        });
        // Other tests of this process decode too, but not that much.
        assert!(most.load(SeqCst) <= LIMIT, "{most:?}");
        let error = take(LIMIT + 1, LIMIT, (9, 9)).expect_err("too large");
        assert!(error.to_string().contains("input.decode_bytes"), "{error}");
    }
}
