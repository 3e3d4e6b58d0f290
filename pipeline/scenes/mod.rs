//! Scenes: a small, licence-free picture world whose captions are exactly known.
//!
//! A [`Scene`] is a background and one to three flat-coloured objects, each in its own cell of a 3x3 grid.
//! Tests and the demo draw shards of scenes, send them through the pipeline like any other data set, and then
//! check captions and scores word by word, because everything that a caption can truly say is in the scene.
//!
//! The way of a sample: [`SceneRng`] makes a [`Scene`] and its [`AltText`], [`draw`] its pixels, [`short`]
//! and [`descriptive`] its captions, and [`write_shard`] packs all of it as a webdataset shard. Pixels,
//! captions and JSON equal those of the Python reference generator (fixtures: `tests/data/scenes`); the
//! random numbers are our own. Nothing here reads a clock, a file or the environment: the same seed is the
//! same shard, for ever.

mod accuracy;
mod draw;
mod generate;
mod grammar;
mod shard;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use accuracy::Accuracy;
pub use draw::{REFERENCE_SIZE, draw, draw_into};
pub use generate::{SceneRng, sample};
pub use grammar::{AltText, Text, descriptive, is_junk, names_true_object, short};
pub use shard::{
    IMAGE_SIZE, JPEG_QUALITY, MAX_SAMPLES, MAX_SHARDS, ShardError, key, sample_index, write_shard,
};

/// Rows, and columns, of the grid that objects stand in.
pub const GRID: u8 = 3;
/// The most objects in a scene.
pub const MAX_OBJECTS: usize = 3;
/// The furthest an object stands from its cell's middle, in pixels of a [`REFERENCE_SIZE`] image.
pub const MAX_OFFSET: i8 = 1;

/// An enum whose variants have a name in captions and JSON.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = concat!("\"", $word, "\"")] #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every variant, in the order of the reference generator.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it in captions and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

named! {
    /// The outline of an object.
    Shape {
        Circle = "circle", Square = "square", Triangle = "triangle", Star = "star",
        Cross = "cross", Ring = "ring", Diamond = "diamond", Heart = "heart",
    }
}

named! {
    /// The colour of an object.
    Colour {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", Black = "black", White = "white",
    }
}

named! {
    /// The one flat colour behind all objects. No object has it.
    Background { Grey = "grey", Pink = "pink", Brown = "brown", Teal = "teal" }
}

named! {
    /// How large an object is.
    Size { Small = "small", Large = "large" }
}

impl Colour {
    /// Red, green and blue, 0 to 255 (sRGB).
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 40, 40],
            Self::Green => [46, 160, 67],
            Self::Blue => [38, 84, 214],
            Self::Yellow => [246, 208, 40],
            Self::Purple => [136, 56, 190],
            Self::Orange => [244, 132, 26],
            Self::Black => [24, 24, 24],
            Self::White => [248, 248, 248],
        }
    }
}

impl Background {
    /// Red, green and blue, 0 to 255 (sRGB).
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Grey => [150, 150, 150],
            Self::Pink => [246, 190, 206],
            Self::Brown => [122, 84, 54],
            Self::Teal => [60, 150, 150],
        }
    }
}

impl Size {
    /// Radius of an object in pixels of a [`REFERENCE_SIZE`] image.
    pub const fn radius(self) -> u8 {
        match self {
            Self::Small => 9,
            Self::Large => 15,
        }
    }
}

/// One flat-coloured object of a [`Scene`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Its outline.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Small or large.
    pub size: Size,
    /// Row of its cell, 0 (top) to 2 (bottom).
    pub row: u8,
    /// Column of its cell, 0 (left) to 2 (right).
    pub col: u8,
    /// Offset to the right of the cell's middle, in pixels of a [`REFERENCE_SIZE`] image, -1 to 1.
    pub dx: i8,
    /// Offset downwards of the cell's middle, in pixels of a [`REFERENCE_SIZE`] image, -1 to 1.
    pub dy: i8,
}

/// A background and one to three objects, each in a cell of its own. Valid once made.
///
/// The first object is the main subject, the one that [`short`] names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedScene")]
pub struct Scene {
    background: Background,
    objects: Vec<Object>,
}

/// A scene as JSON spells it, before its objects are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedScene {
    background: Background,
    objects: Vec<Object>,
}

/// Why something is not a [`Scene`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// Not the JSON of a scene: its syntax, a name, or one of the reasons below.
    #[error("scene: not the JSON of a scene: {0}")]
    Json(#[from] serde_json::Error),
    /// No objects, or too many.
    #[error("scene: {count} objects; a scene has 1 to {MAX_OBJECTS}")]
    ObjectCount {
        /// How many objects there were.
        count: usize,
    },
    /// An object that stands outside the grid.
    #[error("scene: object {index}: row {row}, col {col} is outside the grid; both are 0 to {}", GRID - 1)]
    OutsideGrid {
        /// The object's place in the list.
        index: usize,
        /// Its row.
        row: u8,
        /// Its column.
        col: u8,
    },
    /// An object too far from the middle of its cell.
    #[error("scene: object {index}: dx {dx}, dy {dy} is too far; both are -{MAX_OFFSET} to {MAX_OFFSET}")]
    Offset {
        /// The object's place in the list.
        index: usize,
        /// Its offset to the right.
        dx: i8,
        /// Its offset downwards.
        dy: i8,
    },
    /// Two objects in one cell.
    #[error(
        "scene: object {index}: row {row}, col {col} is taken by an earlier object; give it a cell of its own"
    )]
    CellTaken {
        /// The later object's place in the list.
        index: usize,
        /// The row of both.
        row: u8,
        /// The column of both.
        col: u8,
    },
}

impl Scene {
    /// A scene of these objects, the main subject first.
    ///
    /// # Errors
    /// If there are no objects or more than [`MAX_OBJECTS`], or one stands outside the grid, further than
    /// [`MAX_OFFSET`] from its cell's middle, or in another's cell.
    pub fn new(background: Background, objects: Vec<Object>) -> Result<Self, SceneError> {
        if objects.is_empty() || objects.len() > MAX_OBJECTS {
            return Err(SceneError::ObjectCount { count: objects.len() });
        }
        for (index, &Object { row, col, dx, dy, .. }) in objects.iter().enumerate() {
            if row >= GRID || col >= GRID {
                return Err(SceneError::OutsideGrid { index, row, col });
            }
            if !(-MAX_OFFSET..=MAX_OFFSET).contains(&dx) || !(-MAX_OFFSET..=MAX_OFFSET).contains(&dy) {
                return Err(SceneError::Offset { index, dx, dy });
            }
            if objects[..index].iter().any(|o| (o.row, o.col) == (row, col)) {
                return Err(SceneError::CellTaken { index, row, col });
            }
        }
        Ok(Self { background, objects })
    }

    /// Reads the JSON of a scene, whatever its white space and key order.
    ///
    /// # Errors
    /// If it is not JSON, has an unknown name or key, or [`Scene::new`] refuses it.
    pub fn from_json(json: &[u8]) -> Result<Self, SceneError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The scene as one line of JSON, byte for byte what Python's `json.dumps` makes of the reference's
    /// scene.
    pub fn to_json(&self) -> String {
        let objects: Vec<String> = self.objects.iter().copied().map(Object::to_json).collect();
        format!(r#"{{"background": "{}", "objects": [{}]}}"#, self.background.name(), objects.join(", "))
    }

    /// The colour behind all objects.
    pub fn background(&self) -> Background {
        self.background
    }

    /// One to three objects, the main subject first.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }
}

impl Object {
    fn to_json(self) -> String {
        let Self { shape, colour, size, row, col, dx, dy } = self;
        let (shape, colour, size) = (shape.name(), colour.name(), size.name());
        format!(
            r#"{{"shape": "{shape}", "colour": "{colour}", "size": "{size}", "row": {row}, "col": {col}, "dx": {dx}, "dy": {dy}}}"#
        )
    }
}

impl TryFrom<UncheckedScene> for Scene {
    type Error = SceneError;

    fn try_from(unchecked: UncheckedScene) -> Result<Self, SceneError> {
        Self::new(unchecked.background, unchecked.objects)
    }
}
