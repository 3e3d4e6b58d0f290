//! The bound on memory for images in decoding, shared by all threads of the process: a small file may be a large image.

use std::sync::{Condvar, Mutex, PoisonError};

use super::{error::DecodeError, options::DecodeOptions};

/// Bytes in use.
static USED: Mutex<u64> = Mutex::new(0);
static RELEASED: Condvar = Condvar::new();

/// A share of the budget, which is returned when it is dropped.
#[derive(Debug)]
pub(super) struct Share(u64);

/// Waits until `bytes` of the budget are free. No holder of a share takes another, so that the wait ends.
///
/// # Errors
/// When the image alone needs more than the whole budget.
pub(super) fn take(
    bytes: u64,
    options: &DecodeOptions,
    (width, height): (u32, u32),
) -> Result<Share, DecodeError> {
    let (limit, setting) = (options.budget_bytes, options.budget_setting);
    if bytes > limit {
        return Err(DecodeError::TooManyBytes { width, height, bytes, limit, setting });
    }
    let used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut used =
        RELEASED.wait_while(used, |used| *used + bytes > limit).unwrap_or_else(PoisonError::into_inner);
    *used += bytes;
    Ok(Share(bytes))
}

impl Drop for Share {
    fn drop(&mut self) {
        *USED.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        RELEASED.notify_all();
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
    fn shares_never_exceed_the_budget() {
        const LIMIT: u64 = 1 << 40;
        let options = DecodeOptions { budget_bytes: LIMIT, ..DecodeOptions::default() };
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..8_u64 {
                let (now, most, options) = (&now, &most, &options);
                scope.spawn(move || {
                    for turn in 0..200_u64 {
                        let bytes = LIMIT / (2 + (n + turn) % 5);
                        let share = take(bytes, options, (1, 1)).expect("it fits");
                        most.fetch_max(now.fetch_add(bytes, SeqCst) + bytes, SeqCst);
                        now.fetch_sub(bytes, SeqCst);
                        drop(share);
                    }
                });
            }
        });
        // Other tests of this process decode too, but not that much.
        assert!(most.load(SeqCst) <= LIMIT, "{most:?}");
        let error = take(LIMIT + 1, &options, (9, 9)).expect_err("too large");
        assert!(error.to_string().contains("more than budget_bytes = "), "{error}");
    }
}
