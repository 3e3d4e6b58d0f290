//! True captions of a scene: [`short`] and [`descriptive`], equal word for word to the Python reference generator's.

use super::scene::{Object, Scene};

/// Words for the rows of the grid, top first.
const ROWS: [&str; 3] = ["top", "middle", "bottom"];
/// Words for the columns of the grid, left first.
const COLS: [&str; 3] = ["left", "center", "right"];
/// The row called "middle" and the column called "center".
const MIDDLE: u8 = 1;

/// Returns the short caption, which names the main subject: "an orange star".
pub fn short(scene: &Scene) -> String {
    // A scene has at least one object, so this is never empty.
    scene.objects().first().map(named).unwrap_or_default()
}

/// Returns the descriptive caption: every object with size, colour, shape and position, and the background.
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
        body.push_str(&format!("a {size} {colour} {shape} {}", position(object)));
    }
    let background = scene.background().name();
    format!("{body} on {} {background} background", article(background))
}

/// Returns whether `caption` names any object of `scene` by its colour and shape ("red heart").
pub fn names_true_object(scene: &Scene, caption: &str) -> bool {
    scene.objects().iter().any(|o| caption.contains(&format!("{} {}", o.colour.name(), o.shape.name())))
}

/// Names an object by colour and shape: "a red heart".
pub(super) fn named(object: &Object) -> String {
    let colour = object.colour.name();
    format!("{} {colour} {}", article(colour), object.shape.name())
}

/// Returns the indefinite article of a word.
pub(super) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Names an object's position: "at the top left", "on the right", "in the center".
pub(super) fn position(object: &Object) -> String {
    let (row, col) = (ROWS[usize::from(object.row)], COLS[usize::from(object.col)]);
    match (object.row, object.col) {
        (MIDDLE, MIDDLE) => "in the center".to_owned(),
        (MIDDLE, _) => format!("on the {col}"),
        (_, MIDDLE) => format!("at the {row}"),
        _ => format!("at the {row} {col}"),
    }
}
