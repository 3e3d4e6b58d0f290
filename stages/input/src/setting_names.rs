//! Names of the settings that messages refer to.

/// The names under which a program configures this crate. Errors and rejects refer to them, so that a user knows what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingNames {
    /// [`ReadSettings::format`](crate::read::ReadSettings::format).
    pub format: &'static str,
    /// [`ReadSettings::image_suffixes`](crate::read::ReadSettings::image_suffixes).
    pub image_suffixes: &'static str,
    /// [`Columns::image`](crate::columns::Columns::image).
    pub image_column: &'static str,
    /// [`Columns::caption`](crate::columns::Columns::caption).
    pub caption_column: &'static str,
    /// [`Columns::url`](crate::columns::Columns::url).
    pub url_column: &'static str,
    /// [`Columns::key`](crate::columns::Columns::key).
    pub key_column: &'static str,
}

impl Default for SettingNames {
    fn default() -> Self {
        Self {
            format: "format",
            image_suffixes: "image_suffixes",
            image_column: "columns.image",
            caption_column: "columns.caption",
            url_column: "columns.url",
            key_column: "columns.key",
        }
    }
}
