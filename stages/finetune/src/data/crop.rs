//! Augmentation: a random part of the image, as torchvision's `RandomResizedCrop` chooses it.

use recaption_config::derive::schemars::JsonSchema;
use recaption_image::Region;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Attempts, as in torchvision, before the whole image is taken; torchvision takes a central part then.
const ATTEMPTS: usize = 10;

/// Range of a crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "recaption_config::derive::schemars")]
pub struct CropSettings {
    /// Least and greatest share of the image's area, (0, 1]. open_clip trains with [0.9, 1.0].
    pub scale: [f64; 2],
    /// Least and greatest ratio of width to height.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
}

/// torchvision's.
fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

impl CropSettings {
    /// Whether both ranges are ranges.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let [low, high] = self.scale;
        let [narrow, wide] = self.ratio;
        low > 0.0 && low <= high && high <= 1.0 && narrow > 0.0 && narrow <= wide && wide.is_finite()
    }

    /// A part of an image, in shares of its sides; chosen without knowing them, so `ratio` is relative to the image's own.
    #[must_use]
    pub fn choose(&self, random: &mut Random) -> Region {
        let between = |[low, high]: [f64; 2], at: f64| low + (high - low) * at;
        for _ in 0..ATTEMPTS {
            let area = between(self.scale, random.fraction());
            let ratio = between(self.ratio.map(f64::ln), random.fraction()).exp();
            let (width, height) = ((area * ratio).sqrt(), (area / ratio).sqrt());
            if width <= 1.0 && height <= 1.0 {
                let (left, top) = ((1.0 - width) * random.fraction(), (1.0 - height) * random.fraction());
                return Region { left, top, width, height };
            }
        }
        Region { left: 0.0, top: 0.0, width: 1.0, height: 1.0 }
    }
}
