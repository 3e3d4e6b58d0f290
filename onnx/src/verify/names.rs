//! Names of a golden's tensors in reports. A [`Check`](super::Check) has a static name; most are written in the code, and some goldens have
//! tensors whose names only the file tells.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Returns `name`, with control characters escaped, as a static string. Each name is kept once, until the program ends; a golden has
/// some dozens.
pub(super) fn static_name(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let name = name.escape_debug().to_string();
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let kept: &'static str = Box::leak(name.into_boxed_str());
    names.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::static_name;

    #[test]
    fn equal_names_are_kept_once() {
        let (one, two) = (static_name("grad.a"), static_name(&["grad", "a"].join(".")));
        assert!(std::ptr::eq(one, two) && one == "grad.a");
        assert_eq!(static_name("a\nb"), "a\\nb");
    }
}
