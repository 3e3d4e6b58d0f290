//! Hard negatives: captions that one change made false, for measuring how finely a scorer reads.

use recaption_schemas::SplitMix64;
use serde::{Deserialize, Serialize};

use super::{
    grammar::descriptive,
    scene::{GRID, MAX_OBJECTS, Object, Scene},
    vocabulary::{Colour, Shape, Size},
};

/// Makes the stream of changes differ from that of scenes.
const STREAM: u64 = 0x6e65_6761_7469_7665;

/// End of the key of an image with its true caption; a false one's ends with the change's name.
pub const TRUE_PAIR: &str = "true";

/// What of a scene a false caption changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Colour or shape of two objects, exchanged.
    Swap,
    /// The colour of one object.
    Colour,
    /// The shape of one object.
    Shape,
    /// The place of one object.
    Place,
    /// One object more. Not one fewer: a caption that leaves out an object is true, and alt texts are like that.
    Count,
}

impl Change {
    /// Every change, in the order in which a shard holds them.
    pub const ALL: [Self; 5] = [Self::Swap, Self::Colour, Self::Shape, Self::Place, Self::Count];

    /// Returns its name in keys and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Place => "place",
            Self::Count => "count",
        }
    }
}

/// Returns the false captions of the scene of a seed at an index, by change. A change that the scene does not allow is left out:
/// a swap needs two objects that differ, a further object a scene of fewer than three.
#[must_use]
pub fn false_captions(scene: &Scene, seed: u64, index: u64) -> Vec<(Change, String)> {
    let captions = Change::ALL.into_iter().filter_map(|change| {
        let stream = SplitMix64::new(seed ^ STREAM).next_u64() ^ index;
        // A stream per change: one that is added later alters no other.
        let mut random = SplitMix64::new(SplitMix64::new(stream).next_u64() ^ change as u64);
        Some((change, descriptive(&changed(scene, change, &mut random)?)))
    });
    captions.collect()
}

/// Returns the scene with one change, or `None` where there is none.
fn changed(scene: &Scene, change: Change, random: &mut SplitMix64) -> Option<Scene> {
    let mut objects = scene.objects().to_vec();
    let at = random.next_below(objects.len());
    match change {
        Change::Swap => swap(&mut objects, random)?,
        Change::Colour => objects[at].colour = other(Colour::ALL, objects[at].colour, random),
        Change::Shape => objects[at].shape = other(Shape::ALL, objects[at].shape, random),
        Change::Place => (objects[at].row, objects[at].col) = free_cell(&objects, random)?,
        Change::Count => {
            if objects.len() >= MAX_OBJECTS {
                return None;
            }
            let (row, col) = free_cell(&objects, random)?;
            objects.push(Object {
                shape: any(Shape::ALL, random),
                colour: any(Colour::ALL, random),
                size: any(Size::ALL, random),
                row,
                col,
                dx: 0,
                dy: 0,
            });
        }
    }
    // The order of scenes, in which their captions name objects.
    objects.sort_by_key(|o| (o.size != Size::Large, o.row, o.col));
    Some(Scene::from_valid(scene.background(), objects))
}

/// Exchanges colour or shape of two objects that differ in it.
fn swap(objects: &mut [Object], random: &mut SplitMix64) -> Option<()> {
    let mut choices = Vec::new();
    for i in 0..objects.len() {
        for j in i + 1..objects.len() {
            choices.extend((objects[i].colour != objects[j].colour).then_some((i, j, true)));
            choices.extend((objects[i].shape != objects[j].shape).then_some((i, j, false)));
        }
    }
    if choices.is_empty() {
        return None;
    }
    let (i, j, is_colour) = choices[random.next_below(choices.len())];
    let (one, two) = (objects[i], objects[j]);
    if is_colour {
        (objects[i].colour, objects[j].colour) = (two.colour, one.colour);
    } else {
        (objects[i].shape, objects[j].shape) = (two.shape, one.shape);
    }
    Some(())
}

/// Draws a cell of the grid in which no object is.
fn free_cell(objects: &[Object], random: &mut SplitMix64) -> Option<(u8, u8)> {
    let cells = (0..GRID).flat_map(|row| (0..GRID).map(move |col| (row, col)));
    let free: Vec<(u8, u8)> = cells.filter(|cell| objects.iter().all(|o| (o.row, o.col) != *cell)).collect();
    (!free.is_empty()).then(|| free[random.next_below(free.len())])
}

/// Draws one of `all`.
fn any<T: Copy>(all: &[T], random: &mut SplitMix64) -> T {
    all[random.next_below(all.len())]
}

/// Draws one of `all` that is not `own`.
fn other<T: Copy + PartialEq>(all: &[T], own: T, random: &mut SplitMix64) -> T {
    let others: Vec<T> = all.iter().copied().filter(|one| *one != own).collect();
    any(&others, random)
}
