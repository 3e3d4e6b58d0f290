//! Random scenes and alt texts: [`SceneRng`].
//!
//! The distributions are the Python reference generator's; the random numbers are not, since Python's own are
//! costly to follow. Data sets are named by their seed, so the stream of a seed may never change: no draw may
//! be added, dropped or moved in here, and a test pins what some seeds give.

use recaption_schemas::SplitMix64;

use super::grammar::{JUNK, ONE_OBJECT};
use super::{AltText, Background, Colour, GRID, MAX_OFFSET, Object, Scene, Shape, Size};

/// How many objects a scene has; each entry is as likely as the others.
const OBJECT_COUNTS: [usize; 4] = [1, 2, 2, 3];
/// Share of alt texts that are junk.
const JUNK_SHARE: f64 = 0.25;
/// Share of alt texts that are junk or name one object.
const ONE_OBJECT_BELOW: f64 = 0.55;
/// Share of alt texts that are junk, name one object, or name all; the rest are descriptive.
const NAMES_BELOW: f64 = 0.75;
/// Numbers in junk are 1 to this.
const MAX_JUNK_NUMBER: usize = 99;
/// Cells of the grid.
const CELLS: usize = GRID as usize * GRID as usize;

/// The scene of a seed at an index, and its alt text. Each index has a stream of random numbers of its own.
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
    /// The stream of `seed` at `index`. Streams of one seed start at different states for each index.
    pub fn new(seed: u64, index: u64) -> Self {
        let of_seed = SplitMix64::new(seed).next_u64();
        Self(SplitMix64::new(SplitMix64::new(of_seed ^ index).next_u64()))
    }

    /// A scene: one, two (twice as often) or three objects in cells of their own, large ones first, then by
    /// row and column; shape, colour, size, offsets and background are uniform.
    pub fn scene(&mut self) -> Scene {
        let count = self.choice(&OBJECT_COUNTS);
        let mut cells: [u8; CELLS] = std::array::from_fn(|cell| cell as u8);
        for chosen in 0..count {
            cells.swap(chosen, chosen + self.0.next_below(CELLS - chosen));
        }
        let mut objects: Vec<Object> = cells[..count].iter().map(|&cell| self.object(cell)).collect();
        objects.sort_by_key(|o| (o.size != Size::Large, o.row, o.col));
        Scene { background: self.choice(Background::ALL), objects }
    }

    /// An alt text for `scene`: a quarter junk, else something short or partial, sometimes all of it.
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

    /// An offset, `-MAX_OFFSET` to `MAX_OFFSET`.
    fn offset(&mut self) -> i8 {
        self.0.next_below(2 * MAX_OFFSET as usize + 1) as i8 - MAX_OFFSET
    }

    /// One of `from`, which is not empty.
    fn choice<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.next_below(from.len())]
    }
}
