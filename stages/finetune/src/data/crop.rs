//! Augmentation: random crops, chosen as by torchvision's `RandomResizedCrop`.

use recaption_config::derive::schemars::JsonSchema;
use recaption_image::Region;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Number of attempts, as in torchvision, before the whole image is taken; torchvision takes a central crop then.
const ATTEMPTS: usize = 10;

/// Ranges of random crops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "recaption_config::derive::schemars")]
pub struct CropSettings {
    /// Smallest and largest share of the image's area, in (0, 1]. open_clip trains with [0.9, 1.0].
    pub scale: [f64; 2],
    /// Smallest and largest ratio of width to height, > 0.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
}

/// torchvision's default.
fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

impl CropSettings {
    /// Returns whether both ranges are valid.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let [low, high] = self.scale;
        let [narrow, wide] = self.ratio;
        low > 0.0 && low <= high && high <= 1.0 && narrow > 0.0 && narrow <= wide && wide.is_finite()
    }

    /// Draws a crop, as shares of the image's sides; the sides are unknown, so `ratio` is relative to the image's own.
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
