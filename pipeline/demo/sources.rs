//! The sources of captions that the demo compares, in the order of all its tables.

use super::rows::{DemoRow, ScoredCaption};

/// A source of captions.
#[derive(Clone, Copy)]
pub(super) struct CaptionSource {
    /// Name in the tables.
    pub(super) name: &'static str,
    /// Returns the source's caption of an image.
    pub(super) caption: fn(&DemoRow) -> &ScoredCaption,
}

/// The input's alt texts and the three captioners.
pub(super) const SOURCES: [CaptionSource; 4] = [
    CaptionSource { name: "alt texts", caption: |row| &row.alt },
    CaptionSource { name: "base", caption: |row| &row.base },
    CaptionSource { name: "ssc: short", caption: |row| &row.short },
    CaptionSource { name: "dsc: descriptive", caption: |row| &row.descriptive },
];
