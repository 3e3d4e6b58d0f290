//! Machines: how fast they are, and what becomes of them.

use std::{
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

/// How the machines of a fleet differ, and what happens to them. Shares are of all machines, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hazards {
    /// Share that dies without notice, at a time drawn uniformly from the ideal duration.
    pub deaths: f64,
    /// Share that is reclaimed with a notice, as spot machines are.
    pub reclaims: f64,
    /// Seconds between the notice and the end.
    pub notice: f64,
    /// Share of dead and reclaimed machines that are replaced.
    pub replaced: f64,
    /// Seconds until a replacement is there.
    pub replacement: f64,
    /// Share that is slow.
    pub stragglers: f64,
    /// Speed of these, relative to the others.
    pub straggler_speed: f64,
    /// Share that joins late, at a time drawn uniformly from the first half of the ideal duration.
    pub late: f64,
}

impl Hazards {
    /// Nothing happens.
    pub(crate) const NONE: Self = Self {
        deaths: 0.0,
        reclaims: 0.0,
        notice: 120.0,
        replaced: 0.0,
        replacement: 300.0,
        stragglers: 0.0,
        straggler_speed: 0.4,
        late: 0.0,
    };
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// It is gone from one moment to the next.
    Death,
    /// Its process gets SIGTERM, and is killed after this time.
    Reclaim(Duration),
}

impl End {
    /// Returns the time between the notice and the end.
    pub(crate) fn notice(self) -> Duration {
        match self {
            Self::Death => Duration::ZERO,
            Self::Reclaim(notice) => notice,
        }
    }
}

/// What becomes of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// When it joins, and its process starts.
    pub joins: Duration,
    /// Images relative to an average machine.
    pub speed: f64,
    /// Time from its start until the models are loaded.
    pub boot: Duration,
    /// When and how it ends.
    pub end: Option<(Duration, End)>,
    /// Time until a replacement joins, if there is one.
    pub replacement: Option<Duration>,
}

/// Standard deviation of the machines' speeds.
const SPEED_SPREAD: f64 = 0.03;
/// Seconds that a machine takes from its start until the models are loaded.
const BOOT: std::ops::Range<f64> = 20.0..60.0;

impl Fate {
    /// Draws the fate of a machine. `duration` is about the seconds that the fleet needs.
    pub(crate) fn draw(hazards: &Hazards, duration: f64, random: &mut Rng) -> Self {
        let mut happens = |share: f64| random.f64() < share;
        let (dies, reclaimed, straggles, is_late, is_replaced) = (
            happens(hazards.deaths),
            happens(hazards.reclaims),
            happens(hazards.stragglers),
            happens(hazards.late),
            happens(hazards.replaced),
        );
        let seconds = Duration::from_secs_f64;
        let joins = if is_late { random.f64() * duration / 2.0 } else { 0.0 };
        let boot = BOOT.start + random.f64() * (BOOT.end - BOOT.start);
        let spread = 1.0 + SPEED_SPREAD * (2.0 * random.f64() - 1.0) * 3f64.sqrt();
        let at = seconds(joins + boot + random.f64() * (duration - joins).max(0.0));
        let end = match (dies, reclaimed) {
            (true, _) => Some((at, End::Death)),
            (false, true) => Some((at, End::Reclaim(seconds(hazards.notice)))),
            (false, false) => None,
        };
        Self {
            joins: seconds(joins),
            speed: spread * if straggles { hazards.straggler_speed } else { 1.0 },
            boot: seconds(boot),
            end,
            replacement: is_replaced.then(|| seconds(hazards.replacement)),
        }
    }
}

/// What computes captions in one process: one task at a time, in turn.
#[derive(Debug)]
pub(crate) struct Device {
    speed: f64,
    turn: Mutex<()>,
    work: Arc<StdMutex<WorkDone>>,
}

/// What a device has done.
#[derive(Debug, Default)]
struct WorkDone {
    seconds: f64,
    /// When it began what it does now.
    began: Option<Instant>,
}

impl Device {
    /// Returns a device of this relative speed.
    pub(crate) fn new(speed: f64) -> Self {
        Self { speed, turn: Mutex::new(()), work: Arc::default() }
    }

    /// Does work that takes an average machine this many seconds.
    pub(crate) async fn work(&self, seconds: f64) {
        let _turn = self.turn.lock().await;
        locked(&self.work).began = Some(Instant::now());
        sleep(Duration::from_secs_f64(seconds / self.speed)).await;
        let mut work = locked(&self.work);
        work.began = None;
        work.seconds += seconds / self.speed;
    }

    /// Returns a function that tells how many milliseconds the device has worked, as a captioner counts its images one by one.
    pub(crate) fn progress(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let work = Arc::clone(&self.work);
        move || {
            let work = locked(&work);
            let now = work.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
            ((work.seconds + now) * 1e3) as u64
        }
    }
}

fn locked(work: &StdMutex<WorkDone>) -> MutexGuard<'_, WorkDone> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a machine could have worked: from the moment its models were loaded until its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    /// From here, in seconds.
    pub from: f64,
    /// To here; infinite for a machine that never ends.
    pub to: f64,
    /// Relative speed.
    pub speed: f64,
}

/// Returns the seconds after which machines that are never idle have done `work` (seconds of an average machine). Infinite
/// where they never do.
pub(crate) fn ideal_seconds(presences: &[Presence], work: f64) -> f64 {
    let mut changes: Vec<(f64, f64)> = Vec::with_capacity(2 * presences.len());
    for presence in presences {
        changes.push((presence.from, presence.speed));
        changes.push((presence.to, -presence.speed));
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut at, mut speed, mut left) = (0.0, 0.0, work);
    for (time, change) in changes {
        let done = if speed > 0.0 { speed * (time - at) } else { 0.0 };
        if done >= left {
            return at + left / speed;
        }
        (at, speed, left) = (time, speed + change, left - done);
    }
    f64::INFINITY
}
