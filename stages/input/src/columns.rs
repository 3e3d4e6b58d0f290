//! Columns and fields with a role of their own: image, caption, URL, key, metadata. The usual names are the same in tables,
//! lists, JSON and metadata files.

/// Usual names of image columns, the best first.
pub(crate) const IMAGE: [&str; 8] = ["image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes"];
/// Usual names of the original caption, the best first.
pub(crate) const CAPTION: [&str; 8] =
    ["caption", "text", "txt", "alt_text", "captions", "texts", "sentences", "org_caption"];
/// Usual names of the image's URL, the best first.
pub(crate) const URL: [&str; 2] = ["url", "image_url"];
/// Usual names of the key. Only a column of these names declares keys.
pub(crate) const KEY: [&str; 2] = ["key", "__key__"];
/// Usual names of the sample's own JSON.
pub(crate) const META: [&str; 2] = ["meta", "json"];

/// Configured names of columns; those that are `None` are looked up by their usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Column of image bytes.
    pub image: Option<String>,
    /// Column of the original caption.
    pub caption: Option<String>,
    /// Column of the image's URL.
    pub url: Option<String>,
    /// Column of the key.
    pub key: Option<String>,
}

/// Returns the index of the best of the `usual` names: in their order, an exact match before one that differs in case.
pub(crate) fn find<'a>(names: impl Iterator<Item = &'a str> + Clone, usual: &[&str]) -> Option<usize> {
    find_all(names, usual).next()
}

/// Returns the indices of all `usual` names, the best first. See [`find`].
pub(crate) fn find_all<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    usual: &[&str],
) -> impl Iterator<Item = usize> {
    let mut found = Vec::new();
    for usual in usual {
        let exact = names.clone().enumerate().filter(|(_, name)| name == usual);
        let other =
            names.clone().enumerate().filter(|(_, name)| name != usual && name.eq_ignore_ascii_case(usual));
        found.extend(exact.chain(other).map(|(at, _)| at));
    }
    found.into_iter()
}

/// Returns the index of a column whose name is configured under `setting`.
///
/// # Errors
/// When there is no column of this name, in any case.
pub(crate) fn configured_column<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    configured: &str,
    setting: &str,
) -> Result<usize, String> {
    find(names.clone(), &[configured]).ok_or_else(|| {
        format!("no column `{configured}` ({setting}); there are: {}", names.collect::<Vec<_>>().join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_come_before_other_cases() {
        let names = ["URL", "Caption", "caption", "TXT"];
        assert_eq!(find(names.into_iter(), &CAPTION), Some(2));
        assert_eq!(find_all(names.into_iter(), &CAPTION).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(find(names.into_iter(), &URL), Some(0));
        assert_eq!(find(names.into_iter(), &KEY), None);
    }
}
