//! Random scenes and alt texts: [`SceneRng`].
//!
//! The distributions equal the Python reference generator's; the random numbers do not, since Python's generator is
//! costly to reproduce. Datasets are named by their seed, so the stream of a seed may never change: no draw may be
//! added, removed or moved here, and a test pins the scenes of some seeds.

use recaption_schemas::SplitMix64;

use super::{
    alt_text::{AltText, JUNK, ONE_OBJECT},
    scene::{GRID, MAX_OFFSET, Object, Scene},
    vocabulary::{Background, Colour, Shape, Size},
};

/// Numbers of objects of a scene; each entry is equally likely.
const OBJECT_COUNTS: [usize; 4] = [1, 2, 2, 3];
/// Share of alt texts that are junk.
const JUNK_SHARE: f64 = 0.25;
/// Cumulative share of alt texts that are junk or name one object.
const ONE_OBJECT_BELOW: f64 = 0.55;
/// Cumulative share of alt texts that are junk, name one object, or name all; the rest are descriptive.
const NAMES_BELOW: f64 = 0.75;
/// Largest number in junk; the smallest is 1.
const MAX_JUNK_NUMBER: usize = 99;
/// Number of cells of the grid.
const CELLS: usize = GRID as usize * GRID as usize;

/// Draws the scene of a seed at an index, and its alt text. Each index has its own stream of random numbers.
pub fn sample(seed: u64, index: u64) -> (Scene, AltText) {
    let mut rng = SceneRng::new(seed, index);
    let scene = rng.scene();
    let alt_text = rng.alt_text(&scene);
    (scene, alt_text)
}

/// A stream of random scenes.
#[derive(Clone, Debug)]
pub struct SceneRng(SplitMix64);

impl SceneRng {
    /// Creates the stream of `seed` at `index`. Streams of one seed start at different states for each index.
    pub fn new(seed: u64, index: u64) -> Self {
        let of_seed = SplitMix64::new(seed).next_u64();
        Self(SplitMix64::new(SplitMix64::new(of_seed ^ index).next_u64()))
    }

    /// Draws a scene: one, two (twice as often) or three objects in different cells, large ones first, then by row and
    /// column; shape, colour, size, offsets and background are uniform.
    pub fn scene(&mut self) -> Scene {
        let count = self.choice(&OBJECT_COUNTS);
        let mut cells: [u8; CELLS] = std::array::from_fn(|cell| cell as u8);
        for chosen in 0..count {
            cells.swap(chosen, chosen + self.0.next_below(CELLS - chosen));
        }
        let mut objects: Vec<Object> = cells[..count].iter().map(|&cell| self.object(cell)).collect();
        objects.sort_by_key(|o| (o.size != Size::Large, o.row, o.col));
        Scene::from_valid(self.choice(Background::ALL), objects)
    }

    /// Draws an alt text for `scene`: a quarter are junk, the others short, partial or complete.
    pub fn alt_text(&mut self, scene: &Scene) -> AltText {
        let u = self.0.next_fraction();
        if u < JUNK_SHARE {
            let template = self.choice(&JUNK);
            return AltText::Junk { template, number: (1 + self.0.next_below(MAX_JUNK_NUMBER)) as u8 };
        }
        if u < ONE_OBJECT_BELOW {
            let object = self.choice(scene.objects());
            return AltText::OneObject { template: self.choice(&ONE_OBJECT), object };
        }
        if u < NAMES_BELOW { AltText::Names } else { AltText::Descriptive }
    }

    /// Draws the object of a cell.
    fn object(&mut self, cell: u8) -> Object {
        Object {
            shape: self.choice(Shape::ALL),
            colour: self.choice(Colour::ALL),
            size: self.choice(Size::ALL),
            row: cell / GRID,
            col: cell % GRID,
            dx: self.offset(),
            dy: self.offset(),
        }
    }

    /// Draws an offset, `-MAX_OFFSET` to `MAX_OFFSET`.
    fn offset(&mut self) -> i8 {
        self.0.next_below(2 * MAX_OFFSET as usize + 1) as i8 - MAX_OFFSET
    }

    /// Draws one of `from`, which is not empty.
    fn choice<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.next_below(from.len())]
    }
}
