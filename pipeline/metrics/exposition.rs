//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

use recaption_messages::HistogramCounts;

use super::families::{Family, Scope};

/// Media type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics as text. Writing to a string cannot fail, so results of `write!` are dropped.
#[derive(Debug)]
pub(super) struct Exposition {
    text: String,
    place: Scope,
    /// A label of every sample.
    base: Option<(&'static str, String)>,
}

impl Exposition {
    /// Creates the text for one place; metrics of other places are left out. `base` is a label of every sample.
    pub(super) fn new(place: Scope, base: Option<(&'static str, String)>) -> Self {
        Self { text: String::new(), place, base }
    }

    /// Returns the text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Begins a metric: its samples must follow at once.
    pub(super) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let is_wanted = family.scope == Scope::Both || family.scope == self.place;
        if is_wanted {
            let (name, kind) = (family.name, family.kind.as_str());
            let help = family.help.replace('\\', r"\\").replace('\n', r"\n");
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        Samples { exposition: self, family, is_wanted }
    }

    /// Writes a metric without labels.
    pub(super) fn single(&mut self, family: &'static Family, value: impl Display) {
        self.family(family).sample(&[], value);
    }

    fn write_sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let base = self.base.iter().map(|(name, value)| (*name, value.as_str()));
        let pairs: Vec<String> = base
            .chain(labels.iter().copied())
            .map(|(name, value)| format!("{name}=\"{}\"", escape_label(value)))
            .collect();
        let _ = match pairs.is_empty() {
            true => writeln!(self.text, "{name} {value}"),
            false => writeln!(self.text, "{name}{{{}}} {value}", pairs.join(",")),
        };
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    exposition: &'a mut Exposition,
    family: &'static Family,
    is_wanted: bool,
}

impl Samples<'_> {
    /// Writes a sample; `labels` are the values of the metric's labels, in their order.
    pub(super) fn sample(&mut self, labels: &[&str], value: impl Display) {
        if self.is_wanted {
            let pairs: Vec<(&str, &str)> = self.pairs(labels);
            self.exposition.write_sample(self.family.name, &pairs, value);
        }
    }

    /// Writes the samples of a histogram.
    pub(super) fn histogram(&mut self, labels: &[&str], counts: &HistogramCounts) {
        if !self.is_wanted {
            return;
        }
        let (name, pairs) = (self.family.name, self.pairs(labels));
        let bounds = counts.buckets.iter().map(|(bound, count)| (bound.to_string(), *count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), counts.count)]) {
            let pairs: Vec<(&str, &str)> = pairs.iter().copied().chain([("le", bound.as_str())]).collect();
            self.exposition.write_sample(&format!("{name}_bucket"), &pairs, count);
        }
        self.exposition.write_sample(&format!("{name}_sum"), &pairs, counts.seconds);
        self.exposition.write_sample(&format!("{name}_count"), &pairs, counts.count);
    }

    fn pairs<'b>(&self, values: &[&'b str]) -> Vec<(&'static str, &'b str)> {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        self.family.labels.iter().copied().zip(values.iter().copied()).collect()
    }
}

fn escape_label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families::{BUILD_INFO, COMMITS, LAST_EXIT, RESIDENT_MEMORY};

    #[test]
    fn samples_follow_their_help_and_values_are_escaped() {
        let mut text = Exposition::new(Scope::Served, None);
        text.family(&BUILD_INFO).sample(&["a\\b\"c\nd"], 1);
        text.single(&LAST_EXIT, 3);
        let expected = "# HELP recaption_build_info Version of the program; the value is 1.\n\
                        # TYPE recaption_build_info gauge\n\
                        recaption_build_info{version=\"a\\\\b\\\"c\\nd\"} 1\n";
        assert_eq!(text.into_text(), expected, "and the file's metrics are not served");
    }

    #[test]
    fn files_have_a_base_label_and_no_metric_of_node_exporter() {
        let mut text = Exposition::new(Scope::File, Some(("output", "s3://b/o".to_owned())));
        text.single(&LAST_EXIT, 3);
        text.single(&RESIDENT_MEMORY, 5);
        let counts = HistogramCounts { buckets: vec![(0.25, 1), (30.0, 2)], count: 3, seconds: 40.5 };
        text.family(&COMMITS).histogram(&[], &counts);
        let text = text.into_text();
        assert!(text.contains("\nrecaption_last_run_exit_code{output=\"s3://b/o\"} 3\n"), "{text}");
        assert!(!text.contains("process_"), "{text}");
        let (_, histogram) = text.split_once("histogram\n").expect("a histogram");
        let name = "recaption_commit_duration_seconds";
        let lines = [
            format!("{name}_bucket{{output=\"s3://b/o\",le=\"0.25\"}} 1"),
            format!("{name}_bucket{{output=\"s3://b/o\",le=\"30\"}} 2"),
            format!("{name}_bucket{{output=\"s3://b/o\",le=\"+Inf\"}} 3"),
            format!("{name}_sum{{output=\"s3://b/o\"}} 40.5"),
            format!("{name}_count{{output=\"s3://b/o\"}} 3"),
        ];
        assert_eq!(histogram.lines().collect::<Vec<_>>(), lines);
    }
}
