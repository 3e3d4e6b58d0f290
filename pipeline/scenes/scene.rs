//! [`Scene`]: a background and its objects, valid once made.

use serde::{Deserialize, Serialize};

use super::vocabulary::{Background, Colour, Shape, Size};

/// Number of rows, and of columns, of the grid that objects stand in.
pub const GRID: u8 = 3;
/// Largest number of objects in a scene.
pub const MAX_OBJECTS: usize = 3;
/// Largest distance of an object from its cell's middle along either axis, in pixels of a
/// [`REFERENCE_SIZE`](super::REFERENCE_SIZE) image.
pub const MAX_OFFSET: i8 = 1;

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
    /// Offset to the right of the cell's middle, in pixels of a [`REFERENCE_SIZE`](super::REFERENCE_SIZE) image, -1 to 1.
    pub dx: i8,
    /// Offset downwards of the cell's middle, in pixels of a [`REFERENCE_SIZE`](super::REFERENCE_SIZE) image, -1 to 1.
    pub dy: i8,
}

/// A background and one to three objects, each in a cell of its own. Valid once made.
///
/// The first object is the main subject, the one that [`short`](super::short) names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedScene")]
pub struct Scene {
    background: Background,
    objects: Vec<Object>,
}

/// A scene as parsed from JSON, before its objects are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedScene {
    background: Background,
    objects: Vec<Object>,
}

/// The reason why something is not a [`Scene`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// The JSON is malformed, holds an unknown name, or describes an invalid scene.
    #[error("scene: not the JSON of a scene: {0}")]
    Json(#[from] serde_json::Error),
    /// There are no objects, or too many.
    #[error("scene: {count} objects; a scene has 1 to {MAX_OBJECTS}")]
    ObjectCount {
        /// The number of objects.
        count: usize,
    },
    /// An object stands outside the grid.
    #[error("scene: object {index}: row {row}, col {col} is outside the grid; both are 0 to {}", GRID - 1)]
    OutsideGrid {
        /// The object's position in the list, from 0.
        index: usize,
        /// Its row.
        row: u8,
        /// Its column.
        col: u8,
    },
    /// An object stands too far from the middle of its cell.
    #[error("scene: object {index}: dx {dx}, dy {dy} is too far; both are -{MAX_OFFSET} to {MAX_OFFSET}")]
    Offset {
        /// The object's position in the list, from 0.
        index: usize,
        /// Its offset to the right.
        dx: i8,
        /// Its offset downwards.
        dy: i8,
    },
    /// Two objects stand in one cell.
    #[error(
        "scene: object {index}: row {row}, col {col} is taken by an earlier object; give it a cell of its own"
    )]
    CellTaken {
        /// The later object's position in the list, from 0.
        index: usize,
        /// The row of both.
        row: u8,
        /// The column of both.
        col: u8,
    },
}

impl Scene {
    /// Creates a scene of these objects, the main subject first.
    ///
    /// # Errors
    /// Fails if there are no objects or more than [`MAX_OBJECTS`], or one stands outside the grid, further than
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

    /// Creates a scene of objects that are valid by construction.
    pub(super) fn from_valid(background: Background, objects: Vec<Object>) -> Self {
        Self { background, objects }
    }

    /// Parses the JSON of a scene, with any white space and key order.
    ///
    /// # Errors
    /// Fails if it is not JSON, has an unknown name or key, or describes a scene that [`Scene::new`] rejects.
    pub fn from_json(json: &[u8]) -> Result<Self, SceneError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Formats the scene as one line of JSON, equal byte for byte to Python's `json.dumps` of the reference's scene.
    pub fn to_json(&self) -> String {
        let objects: Vec<String> = self.objects.iter().copied().map(Object::to_json).collect();
        format!(r#"{{"background": "{}", "objects": [{}]}}"#, self.background.name(), objects.join(", "))
    }

    /// Returns the colour behind all objects.
    pub fn background(&self) -> Background {
        self.background
    }

    /// Returns the objects, one to three, the main subject first.
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
