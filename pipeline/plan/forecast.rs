//! Hours and cost, from a measured rate.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::{
    models::Compute,
    problem::{Findings, Subject, text_of},
};
use crate::preview::PreviewRecord;

/// Numbers of workers whose hours are shown.
const WORKERS: [u64; 5] = [1, 2, 4, 8, 16];
/// Sections of the configuration on which the rate depends.
const SECTIONS_OF_RATE: [&str; 3] = ["model.", "caption.", "input."];

/// What is known about the rate and the price.
#[derive(Clone, Debug, Default)]
pub struct ForecastRequest {
    /// Record of a preview.
    pub preview: Option<PathBuf>,
    /// Images per second of one worker, where no preview fits.
    pub rate: Option<f64>,
    /// Price of a machine's hour, in any currency.
    pub price_per_hour: Option<f64>,
    /// A number of workers of interest.
    pub workers: Option<u64>,
}

/// How long a run takes, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Images per second of one worker.
    pub images_per_second: f64,
    /// Where the rate comes from.
    pub rate_from: String,
    /// Hours on this machine.
    pub hours: f64,
    /// Hours with several workers, each on a machine like this.
    pub workers: Vec<WorkersHours>,
    /// What the machines cost together, in the currency of the price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Hours with a number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkersHours {
    /// Number of workers.
    pub workers: u64,
    /// Hours until all are done.
    pub hours: f64,
}

/// What a run costs, in the currency of the price.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Price of a machine's hour.
    pub price_per_hour: f64,
    /// All pending images.
    pub total: f64,
    /// A million images.
    pub per_million_images: f64,
}

impl Forecast {
    /// Computes hours and cost of `images` in `shards`. More workers than shards are of no use.
    #[must_use]
    pub fn new(
        (rate, rate_from): (f64, String),
        images: u64,
        shards: u64,
        request: &ForecastRequest,
    ) -> Self {
        let hours = images as f64 / rate / 3600.0;
        let mut counts: Vec<u64> = match request.workers {
            Some(workers) => vec![1, workers],
            None => WORKERS.into_iter().filter(|workers| *workers <= shards.max(1)).collect(),
        };
        counts.dedup();
        let workers = counts
            .into_iter()
            .map(|workers| WorkersHours { workers, hours: hours / workers.min(shards.max(1)).max(1) as f64 });
        let cost = request.price_per_hour.map(|price_per_hour| Cost {
            price_per_hour,
            total: price_per_hour * hours,
            per_million_images: price_per_hour * 1e6 / rate / 3600.0,
        });
        Self { images_per_second: rate, rate_from, hours, workers: workers.collect(), cost }
    }
}

/// Reads the preview, if one was given and it was made with this configuration on such hardware. Notes why it does not apply.
pub(super) fn fitting_preview(
    request: &ForecastRequest,
    (configuration, compute): (Option<&BTreeMap<String, String>>, Option<&Compute>),
    findings: &mut Findings,
) -> Option<PreviewRecord> {
    let path = request.preview.as_ref()?;
    let place = path.display().to_string();
    let record = match PreviewRecord::read(path) {
        Ok(record) => record,
        Err(error) => {
            let remedy = "give the preview.json that `recaption preview` wrote";
            findings.add(Subject::Configuration, format!("--preview {place}"), text_of(&error), remedy);
            return None;
        }
    };
    let differences = differences(&record, configuration?, compute?);
    if !differences.is_empty() {
        let differences = differences.join("; ");
        findings
            .note(format!("the rate of {place} is not used, since it was measured otherwise: {differences}"));
        return None;
    }
    Some(record)
}

/// Computes hours and cost, if a rate is known: that of the preview if it fits, else the one that was given.
pub(super) fn forecast(
    request: &ForecastRequest,
    (images, shards): (u64, usize),
    preview: Option<&PreviewRecord>,
    findings: &mut Findings,
) -> Option<Forecast> {
    let measured = request.preview.as_ref().zip(preview).and_then(|(path, record)| {
        let place = path.display().to_string();
        if record.images_per_second.is_finite() && record.images_per_second > 0.0 {
            return Some((record.images_per_second, place));
        }
        findings.note(format!("the rate of {place} is not used: it captioned no image"));
        None
    });
    let rate = measured.or_else(|| Some((request.rate?, "--rate".to_owned())));
    let Some(rate) = rate else {
        findings.note("hours and cost need a rate: measure one with `recaption preview` and give its record as --preview, or give --rate");
        return None;
    };
    Some(Forecast::new(rate, images, shards as u64, request))
}

/// Returns what the rate depends on and differs between the preview and this run.
fn differences(
    record: &PreviewRecord,
    configuration: &BTreeMap<String, String>,
    compute: &Compute,
) -> Vec<String> {
    let of_rate = |keys: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let is_of_rate = |name: &str| SECTIONS_OF_RATE.iter().any(|section| name.starts_with(section));
        keys.iter().filter(|(name, _)| is_of_rate(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let keys = crate::run::differences(&of_rate(&record.configuration), &of_rate(configuration));
    let mut all: Vec<String> = Some(keys).into_iter().filter(|keys| !keys.is_empty()).collect();
    if record.provider != compute.provider {
        all.push(format!("the provider was {}, is {}", record.provider, compute.provider));
    }
    if record.devices.len() != compute.devices.len() {
        all.push(format!("it ran on {} GPUs, this on {}", record.devices.len(), compute.devices.len()));
    }
    if record.threads != compute.threads as u64 {
        all.push(format!("there were {} threads, are {}", record.threads, compute.threads));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_cost_follow_from_rate_and_price() {
        let request = ForecastRequest { price_per_hour: Some(2.5), ..ForecastRequest::default() };
        let forecast = Forecast::new((50.0, "--rate".into()), 1_800_000, 4, &request);
        assert!((forecast.hours - 10.0).abs() < 1e-9);
        let hours: Vec<(u64, f64)> = forecast.workers.iter().map(|w| (w.workers, w.hours)).collect();
        assert_eq!(hours, [(1, 10.0), (2, 5.0), (4, 2.5)], "more workers than shards are of no use");
        let cost = forecast.cost.expect("a price");
        assert!((cost.total - 25.0).abs() < 1e-9);
        assert!((cost.per_million_images - 2.5 * 1e6 / 50.0 / 3600.0).abs() < 1e-9);
        let request = ForecastRequest { workers: Some(10), ..ForecastRequest::default() };
        let forecast = Forecast::new((50.0, "--rate".into()), 1_800_000, 4, &request);
        assert_eq!(forecast.workers[1], WorkersHours { workers: 10, hours: 2.5 });
        assert!(forecast.cost.is_none());
    }
}
