//! Alt texts of scenes, as the web writes them: [`AltText`].
//!
//! Equal word for word to the Python reference generator's. Which alt text a sample gets is drawn by
//! [`SceneRng`](super::SceneRng); here a choice becomes text.

use super::{
    grammar::{article, descriptive, named, position, short},
    scene::{Object, Scene},
};

/// Alt texts that do not describe the scene; `{n}` is a number.
pub(super) const JUNK: [&str; 10] = [
    "img_{n}.jpg",
    "buy now free shipping",
    "click to enlarge",
    "photo {n}",
    "untitled {n}",
    "best price item {n}",
    "download wallpaper hd",
    "stock image {n}",
    "my album {n}",
    "thumbnail",
];
/// Alt texts that name one object: `{a}` is its article, `{c}` its colour, `{s}` its shape, `{w}` its position.
pub(super) const ONE_OBJECT: [&str; 5] =
    ["{a} {c} {s}", "photo of {a} {c} {s}", "{c} {s}", "picture of {a} {c} {s} {w}", "{c} {s} clip art"];

/// An alt text such as images on the web have, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AltText {
    /// A text that does not describe the scene.
    Junk {
        /// The text, `{n}` in place of a number.
        template: &'static str,
        /// The number, 1 to 99, drawn even if the text has no place for it.
        number: u8,
    },
    /// A text that names one object, any of the scene's.
    OneObject {
        /// The text, `{a}`, `{c}`, `{s}`, `{w}` in place of article, colour, shape and position.
        template: &'static str,
        /// The object.
        object: Object,
    },
    /// A text that names every object by colour and shape.
    Names,
    /// The descriptive caption, as [`descriptive`](super::descriptive) writes it.
    Descriptive,
}

impl AltText {
    /// Formats this alt text for `scene`.
    pub fn text(&self, scene: &Scene) -> String {
        match self {
            Self::Junk { template, number } => template.replace("{n}", &number.to_string()),
            Self::OneObject { template, object } => template
                .replace("{a}", article(object.colour.name()))
                .replace("{c}", object.colour.name())
                .replace("{s}", object.shape.name())
                .replace("{w}", &position(object)),
            Self::Names => scene.objects().iter().map(named).collect::<Vec<_>>().join(" and "),
            Self::Descriptive => descriptive(scene),
        }
    }
}

/// Kind of the text that a shard stores with each scene.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextKind {
    /// An alt text such as the web has: [`AltText`].
    #[default]
    Alt,
    /// The short caption: [`short`](super::short).
    Short,
    /// The descriptive caption: [`descriptive`](super::descriptive).
    Descriptive,
    /// The descriptive caption, and each of [`false_captions`](super::false_captions) with the same image under a key of its own.
    Pairs,
}

impl TextKind {
    /// Returns the text of this kind for `scene`, whose alt text is `alt_text`; of pairs the true one.
    pub fn of(self, scene: &Scene, alt_text: &AltText) -> String {
        match self {
            Self::Alt => alt_text.text(scene),
            Self::Short => short(scene),
            Self::Descriptive | Self::Pairs => descriptive(scene),
        }
    }
}

/// Returns whether `caption` is an alt text of kind [`AltText::Junk`], with any number.
pub fn is_junk(caption: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    JUNK.iter().any(|template| match template.split_once("{n}") {
        None => caption == *template,
        Some((before, after)) => {
            caption.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(is_number)
        }
    })
}
