//! What can be said of a scene: true captions ([`short`], [`descriptive`]) and what the web would say
//! ([`AltText`]).
//!
//! Word for word the grammar of the Python reference generator. Which [`AltText`] a sample gets is drawn
//! elsewhere ([`SceneRng`](super::SceneRng)); here a choice becomes text.

use super::{Object, Scene};

/// Words for rows, top first.
const ROWS: [&str; 3] = ["top", "middle", "bottom"];
/// Words for columns, left first.
const COLS: [&str; 3] = ["left", "center", "right"];
/// The row and column that "middle" and "center" stand for.
const MIDDLE: u8 = 1;

/// Alt texts that say nothing of the scene; `{n}` is a number.
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
/// Alt texts that name one object: `{a}` is its article, `{c}` its colour, `{s}` its shape, `{w}` its place.
pub(super) const ONE_OBJECT: [&str; 5] =
    ["{a} {c} {s}", "photo of {a} {c} {s}", "{c} {s}", "picture of {a} {c} {s} {w}", "{c} {s} clip art"];

/// An alt text such as the web gives to a picture: which kind it is, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AltText {
    /// Nothing of the scene.
    Junk {
        /// The text, `{n}` in place of a number.
        template: &'static str,
        /// The number, 1 to 99, drawn even if the text has none.
        number: u8,
    },
    /// One object, any of the scene's.
    OneObject {
        /// The text, `{a}`, `{c}`, `{s}`, `{w}` in place of article, colour, shape and place.
        template: &'static str,
        /// The object.
        object: Object,
    },
    /// Colour and shape of every object.
    Names,
    /// All of it, as [`descriptive`].
    Descriptive,
}

impl AltText {
    /// The words of this alt text for `scene`.
    pub fn text(&self, scene: &Scene) -> String {
        match self {
            Self::Junk { template, number } => template.replace("{n}", &number.to_string()),
            Self::OneObject { template, object } => template
                .replace("{a}", article(object.colour.name()))
                .replace("{c}", object.colour.name())
                .replace("{s}", object.shape.name())
                .replace("{w}", &place(object)),
            Self::Names => scene.objects().iter().map(named).collect::<Vec<_>>().join(" and "),
            Self::Descriptive => descriptive(scene),
        }
    }
}

/// Which of a sample's texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// What the web would say: [`AltText`].
    #[default]
    Alt,
    /// The main subject alone: [`short`].
    Short,
    /// Everything: [`descriptive`].
    Descriptive,
}

impl Text {
    /// This text of `scene`, whose alt text is `alt_text`.
    pub fn of(self, scene: &Scene, alt_text: &AltText) -> String {
        match self {
            Self::Alt => alt_text.text(scene),
            Self::Short => short(scene),
            Self::Descriptive => descriptive(scene),
        }
    }
}

/// The short caption, which names the main subject: "an orange star".
pub fn short(scene: &Scene) -> String {
    // A scene has at least one object, so this is never empty.
    scene.objects().first().map(named).unwrap_or_default()
}

/// The descriptive caption: every object with size, colour, shape and place, and the background.
///
/// "a large red heart at the top left and a small blue ring in the center on a teal background"
pub fn descriptive(scene: &Scene) -> String {
    let mut body = String::new();
    let last = scene.objects().len() - 1;
    for (index, object) in scene.objects().iter().enumerate() {
        body.push_str(match index {
            0 => "",
            _ if index == last => " and ",
            _ => ", ",
        });
        let (size, colour, shape) = (object.size.name(), object.colour.name(), object.shape.name());
        body.push_str(&format!("a {size} {colour} {shape} {}", place(object)));
    }
    let background = scene.background().name();
    format!("{body} on {} {background} background", article(background))
}

/// Whether `caption` names an object of `scene`, any one, by its colour and shape ("red heart").
pub fn names_true_object(scene: &Scene, caption: &str) -> bool {
    scene.objects().iter().any(|o| caption.contains(&format!("{} {}", o.colour.name(), o.shape.name())))
}

/// Whether `caption` is an alt text of the kind [`AltText::Junk`], whatever its number.
pub fn is_junk(caption: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    JUNK.iter().any(|template| match template.split_once("{n}") {
        None => caption == *template,
        Some((before, after)) => {
            caption.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(is_number)
        }
    })
}

/// "a red heart"
fn named(object: &Object) -> String {
    let colour = object.colour.name();
    format!("{} {colour} {}", article(colour), object.shape.name())
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Where in the picture an object stands: "at the top left", "on the right", "in the center".
pub(super) fn place(object: &Object) -> String {
    let (row, col) = (ROWS[usize::from(object.row)], COLS[usize::from(object.col)]);
    match (object.row, object.col) {
        (MIDDLE, MIDDLE) => "in the center".to_owned(),
        (MIDDLE, _) => format!("on the {col}"),
        (_, MIDDLE) => format!("at the {row}"),
        _ => format!("at the {row} {col}"),
    }
}
