//! A fleet of workers over one output, in virtual time.
//!
//! The program's own code runs: planning, claims and heartbeats, the source of shards, rounds of transient failures, the
//! commit log and the retries of every request. Simulated are the bucket (latency, bandwidth, limits of request rates, lost
//! responses), the machines (speed, deaths, reclaims) and the captions, which are a sleep. Everything runs on one thread with
//! tokio's paused clock, so an hour of a thousand workers takes seconds.
//!
//! | file | what |
//! |---|---|
//! | `objects`, `limits`, `client` | the bucket, its request rates, and a process's view of it |
//! | `machine` | what becomes of machines, and the ideal duration |
//! | `world`, `process` | what processes share, and one process |
//! | `fleet` | a simulation, from start to check |

mod client;
mod fleet;
mod limits;
mod machine;
mod objects;
mod process;
mod world;

pub(crate) use client::Network;
pub(crate) use fleet::{Outcome, Scenario, plan, simulate};
pub(crate) use limits::{RateLimits, RequestKind};
pub(crate) use machine::Hazards;
pub(crate) use world::{Setting, Work};
