//! A member's name -> key and suffix.
//!
//! The key is webdataset's: the path up to the first dot of the basename
//! (`^((?:.*/|)[^.]+)[.]([^/]*)$`); the suffix is what follows that dot, in lower case. Names are
//! data: they are not normalised, and must not be used as paths.

/// The role of a member, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameClass<'a> {
    /// A member of the sample `key`.
    Part {
        /// Path up to the first dot of the basename; the whole name where there is no dot.
        key: &'a str,
        /// What follows that dot, in lower case; empty where nothing does.
        suffix: String,
    },
    /// Webdataset's metadata, matching its `skip_meta`: `__[^/]*__($|/)` at the start.
    Meta,
    /// The basename begins with a dot.
    Hidden,
}

const META_FENCE: &str = "__";

/// Splits a member's name into key and suffix, and recognises names that belong to no sample.
pub fn split_name(name: &str) -> NameClass<'_> {
    let first = name.split('/').next().unwrap_or_default();
    if first.strip_prefix(META_FENCE).is_some_and(|rest| rest.ends_with(META_FENCE)) {
        return NameClass::Meta;
    }
    let base_start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[base_start..].find('.') {
        Some(0) => NameClass::Hidden,
        Some(dot) => {
            let dot = base_start + dot;
            NameClass::Part { key: &name[..dot], suffix: name[dot + 1..].to_lowercase() }
        }
        None => NameClass::Part { key: name, suffix: String::new() },
    }
}

/// Splits a file name or path before its last suffix, which is returned in lower case. Other dots stay; a name that is only a
/// suffix, or has none, stays whole.
pub fn split_stem(name: &str) -> (&str, String) {
    let base_start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[base_start..].rfind('.') {
        Some(dot) if dot > 0 => (&name[..base_start + dot], name[base_start + dot + 1..].to_lowercase()),
        _ => (name, String::new()),
    }
}

/// Returns the part of a compound suffix after its last dot.
pub(super) fn last_part(suffix: &str) -> &str {
    suffix.rsplit('.').next().unwrap_or(suffix)
}
