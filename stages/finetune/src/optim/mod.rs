//! Gradients -> new parameters: clipping, AdamW, schedule, moving average.

mod adamw;
mod groups;
mod schedule;

pub use adamw::{AdamW, AdamWSettings, AdamWState, Update, average, clip};
pub use groups::{Freeze, Group, groups};
pub use schedule::Schedule;
