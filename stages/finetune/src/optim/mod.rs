//! New parameters from gradients: clipping, AdamW, learning rate schedule, moving average.

mod adamw;
mod groups;
mod schedule;

pub use self::adamw::{AdamW, AdamWSettings, AdamWState, average, clip};
pub use self::groups::{Freeze, Group, groups};
pub use self::schedule::Schedule;
