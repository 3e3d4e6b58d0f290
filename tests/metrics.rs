//! Metrics of a run: served while it works, written as a file when it ends, and read by the dashboard and the alert rules of
//! `examples/grafana`.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use serde_json::Value;
use support::{Place, documents, program::recaption};

/// Metrics by name and labels, as `name{a="b"}`, with the types of the families.
struct Scrape {
    samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Scrape {
    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    /// Values of a family's series, by one label's value.
    fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let key = |series: &str| {
            let labels = series.strip_prefix(name)?.strip_prefix('{')?;
            let (_, value) = labels.split_once(&format!("{label}=\""))?;
            Some(value.split('"').next()?.to_owned())
        };
        self.samples.iter().filter_map(|(series, value)| Some((key(series)?, *value))).collect()
    }

    fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let is_counter = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            self.types.get(name).is_some_and(|kind| kind == "counter") || name.ends_with("_bucket")
        };
        self.samples.iter().filter(move |(series, _)| is_counter(series)).map(|(s, v)| (s, *v))
    }
}

/// Parses the text format, and fails on anything that the format does not allow.
fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape { samples: BTreeMap::new(), types: BTreeMap::new() };
    let (mut helped, mut family) = (String::new(), String::new());
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help text").0.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, helped, "help comes before the type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let before = scrape.types.insert(name.to_owned(), kind.to_owned());
            assert!(before.is_none(), "{name} has two groups");
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
            let suffixes: &[&str] = match scrape.types[&family].as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line} in {family}");
            check_labels(&series[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(scrape.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
    }
    check_histograms(&scrape);
    scrape
}

fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix("\"}")).expect("labels in braces");
    for pair in inner.split("\",") {
        let (name, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{labels}");
        assert!(!value.contains(['"', '\n']), "{labels}");
    }
}

/// Buckets are cumulative, and the last one is the count.
fn check_histograms(scrape: &Scrape) {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, value) in scrape.samples.iter().filter(|(series, _)| series.contains("_bucket{")) {
        let (before, after) = series.split_once("le=\"").expect("a bound");
        let bound = after.trim_end_matches("\"}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
        buckets.entry(before.to_owned()).or_default().push((bound, *value));
    }
    assert_eq!(buckets.len(), 4, "three kinds of calls, and commits: {buckets:?}");
    for (series, mut counts) in buckets {
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(counts.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{series}: {counts:?}");
        let base = series.trim_end_matches(',').replace("_bucket", "_count");
        let count = if base.ends_with('{') { base.trim_end_matches('{').to_owned() } else { base + "}" };
        assert_eq!(counts.last().expect("a bucket"), &(f64::INFINITY, scrape.get(&count)), "{series}");
    }
}

/// One HTTP request; `None` when nobody listens.
fn request(port: u16, line: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

fn scrape(port: u16) -> Option<Scrape> {
    let (head, body) = request(port, "GET /metrics")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    Some(parse(&body))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn file(place: &Place) -> Scrape {
    parse(&fs::read_to_string(place.path("run.prom")).expect("the file"))
}

/// A series of the file, which all have the label `output`.
fn of_output(place: &Place, name: &str) -> String {
    format!("{name}{{output=\"{}\"}}", place.path("out").display())
}

#[test]
fn metrics_during_and_after_a_run_count_what_it_reports() {
    let place = Place::new();
    place.draw("in", 2, 400);
    let port = free_port();
    // A client that says nothing holds up nobody.
    let mut silent = None;
    let mut running = place
        .run("in", "out")
        .args(["--log-format", "json", "--min-similarity", "0.6", "--metrics-file", "run.prom"])
        .arg("--metrics-addr")
        .arg(format!("127.0.0.1:{port}"))
        .start();
    let (mut scrapes, mut between) = (Vec::<Scrape>::new(), 0);
    while running.is_alive() {
        std::thread::sleep(Duration::from_millis(50));
        let Some(next) = scrape(port) else { continue };
        silent = silent.or_else(|| TcpStream::connect(("127.0.0.1", port)).ok());
        let ended: f64 = next.by("recaption_samples_total", "outcome").values().sum();
        between += usize::from(ended > 0.0 && ended < 800.0);
        if let Some(last) = scrapes.last() {
            for (series, value) in last.counters() {
                assert!(next.get(series) >= value, "{series} was {value} and is {}", next.get(series));
            }
        }
        scrapes.push(next);
    }
    let said = running.wait();
    said.check(said.status.success(), "success was expected");
    assert!(between > 0, "{} scrapes, none of them between begin and end", scrapes.len());
    let live = scrapes.last().expect("a scrape");
    assert_eq!(live.get("recaption_queue_capacity{queue=\"write\"}"), 256.0);
    assert_eq!(live.get("recaption_device_up{device=\"cpu\"}"), 1.0);
    assert!(live.get("process_resident_memory_bytes") > 1e6);

    let (report, after) = (said.report(), file(&place));
    let number = |value: &Value| value.as_f64().expect("a number");
    let outcomes = after.by("recaption_samples_total", "outcome");
    assert_eq!(outcomes["captioned"], number(&report["counts"]["captioned"]));
    assert_eq!(outcomes["rejected"], number(&report["counts"]["rejected"]));
    let rejects = after.by("recaption_rejects_total", "reason");
    assert!(rejects["below_similarity"] > 0.0, "some captions are below the threshold: {rejects:?}");
    for (reason, count) in &rejects {
        assert_eq!(*count, report["counts"]["reasons"].get(reason).map_or(0.0, number), "{reason}");
    }
    let shards = after.by("recaption_shards", "state");
    assert_eq!((shards["done"], shards["pending"], shards["open"], shards["failed"]), (2.0, 0.0, 0.0, 0.0));
    for name in ["recaption_stage_samples_total", "recaption_stage_bytes_total"] {
        for stage in report["stages"].as_array().expect("stages") {
            let field = if name.contains("samples") { "samples" } else { "bytes" };
            let counted = after.by(name, "stage")[stage["stage"].as_str().expect("a name")];
            assert_eq!(counted, number(&stage[field]), "{name} of {stage}");
        }
    }
    assert_eq!(after.by("recaption_device_images_total", "device")["cpu"], 800.0);
    assert!(after.get(&of_output(&place, "recaption_tokens_total")) >= 800.0);
    let slots = ["used", "offered"]
        .map(|which| after.get(&of_output(&place, &format!("recaption_decoder_slots_{which}_total"))));
    assert!(0.0 < slots[0] && slots[0] <= slots[1], "{slots:?}");
    assert_eq!(after.get(&of_output(&place, "recaption_commit_duration_seconds_count")), 2.0);
    assert!(after.by("recaption_store_requests_total", "operation")["write"] >= 4.0, "parts and records");
    assert!(!after.types.keys().any(|name| name.starts_with("process_")), "node exporter has them itself");
}

#[test]
fn only_gets_of_known_paths_are_answered() {
    let place = Place::new();
    place.draw("in", 1, 400);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut running = place.run("in", "out").arg("--metrics-addr").arg(address).start();
    while request(port, "GET /healthz").is_none() && running.is_alive() {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (line, status, body) in [
        ("GET /healthz", "200 OK", "ok\n"),
        ("GET /", "404 Not Found", "there are /metrics and /healthz\n"),
        ("POST /metrics", "405 Method Not Allowed", "only GET is answered\n"),
        ("nonsense", "400 Bad Request", "not an HTTP/1.1 request\n"),
    ] {
        let (head, answer) = request(port, line).expect("a response");
        assert_eq!((head.lines().next(), answer.as_str()), (Some(&*format!("HTTP/1.1 {status}")), body));
    }
    let mut endless = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    // The connection may be closed before all is sent.
    let _ = endless.write_all(&vec![b'a'; 1 << 20]);
    assert!(scrape(port).is_some());
    running.kill();
    running.wait();
}

#[test]
fn port_in_use_is_an_error_before_anything_else() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let said = recaption()
        .dir(place.root())
        .args(["run", "--model", "no-model", "--input", "no-input", "--output", "out", "--metrics-addr"])
        .arg(&address)
        .ends(1);
    said.warns(&address).warns("the port is in use; choose another").never_says("no-model");
    assert!(!place.path("out").exists());
}

#[test]
fn impossible_places_are_refused() {
    let place = Place::new();
    place.draw("in", 1, 1);
    for (flag, value, code, words) in [
        ("--metrics-addr", "9464", 2, "is not HOST:PORT"),
        ("--metrics-addr", ":9464", 2, "is not HOST:PORT"),
        ("--metrics-addr", "::1:9464", 2, "is not HOST:PORT"),
        ("--metrics-addr", "127.0.0.1:99999", 2, "is not HOST:PORT"),
        ("--metrics-file", "run.txt", 2, "does not end in .prom"),
        ("--metrics-file", "no/folder/run.prom", 1, "no/folder is not a folder; create it"),
    ] {
        place.run("in", "out").args([flag, value]).ends(code).warns(words);
        assert!(!place.path("out").exists(), "{flag} {value}");
    }
}

#[test]
fn file_is_written_after_success_failure_and_nothing_to_do() {
    let place = Place::new();
    place.draw("in", 2, 3);
    let run =
        |input: &str| place.run(input, "out").args(["--log-format", "text", "--metrics-file", "run.prom"]);
    let last = |name: &str| file(&place).get(&of_output(&place, &format!("recaption_last_{name}")));

    run("no-such-*.tar").ends(2);
    assert_eq!(last("run_exit_code"), 2.0);
    let first = file(&place);
    assert!(!first.samples.keys().any(|series| series.starts_with("recaption_last_success")));

    run("in").ends(0).prints("bottleneck ");
    assert_eq!(file(&place).by("recaption_samples_total", "outcome")["captioned"], 6.0);
    let success = last("success_timestamp_seconds");
    assert!(last("run_exit_code") == 0.0 && success == last("run_timestamp_seconds"));
    assert!(last("run_duration_seconds") > 0.0);

    run("in").set("caption.max_tokens=9999").ends(2);
    assert_eq!((last("run_exit_code"), last("success_timestamp_seconds")), (2.0, success));
    assert!(last("run_timestamp_seconds") > success);

    run("in").ends(0).never_says("bottleneck");
    let idle = file(&place);
    assert_eq!(idle.by("recaption_samples_total", "outcome")["captioned"], 0.0);
    assert_eq!(idle.by("recaption_shards", "state")["skipped"], 2.0);
    assert!(last("success_timestamp_seconds") > success, "nothing to do is a success");
    let files = fs::read_dir(place.root()).expect("a folder").flatten();
    let left = files.filter(|file| file.file_name().to_string_lossy().ends_with(".tmp")).count();
    assert_eq!(left, 0, "no temporary file is left");

    let limited = ["--limit", "1", "--metrics-file", "run.prom"];
    place.run("in", "part").args(limited).ends(0);
    let shards = file(&place).by("recaption_shards", "state");
    assert_eq!((shards["done"], shards["not_selected"], shards["pending"]), (1.0, 1.0, 0.0));
}

/// Names of metrics that the program has, and labels, from `recaption config metrics`.
fn declared() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut names, mut labels) =
        (BTreeSet::new(), BTreeSet::from(["le", "job", "instance", "output"].map(String::from)));
    for line in recaption().args(["config", "metrics"]).ends(0).stdout.lines() {
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cells: Vec<&str> = row.split(" | ").collect();
        let name = cells[0].trim_end_matches('`');
        if cells[1] == "histogram" {
            names.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        } else {
            names.insert(name.to_owned());
        }
        labels.extend(cells[2].split(", ").map(|label| label.trim_matches('`').to_owned()));
    }
    (names, labels)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Every metric and every label of a query must exist.
#[track_caller]
fn check_query(query: &str, (names, labels): &(BTreeSet<String>, BTreeSet<String>)) {
    let metrics: Vec<&str> =
        words(query).filter(|word| word.starts_with("recaption_") || word.starts_with("process_")).collect();
    assert!(!metrics.is_empty(), "no metric in {query}");
    for metric in metrics {
        assert!(names.contains(metric), "there is no {metric}, of {query}");
    }
    for inside in query.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        for pair in inside.split(',').filter(|pair| !pair.is_empty()) {
            let label = pair.split(['=', '!', '~']).next().unwrap_or_default().trim();
            assert!(labels.contains(label), "there is no label {label}, of {query}");
        }
    }
    for group in query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        for label in group.split(',').map(str::trim) {
            assert!(labels.contains(label), "there is no label {label}, of {query}");
        }
    }
}

/// All values of a key, anywhere in a document.
fn values_of<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|value| values_of(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| values_of(item, key, found)),
        _ => {}
    }
}

#[test]
fn dashboard_asks_for_metrics_that_exist() {
    let dashboard: Value =
        serde_json::from_str(&documents::text("examples/grafana/recaption.json")).expect("JSON");
    let declared = declared();
    let mut queries = Vec::new();
    values_of(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 20, "{} queries", queries.len());
    for query in queries {
        check_query(query.as_str().expect("a query"), &declared);
    }
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{} has the id of another", panel["title"]);
        let right = panel["gridPos"]["x"].as_u64().zip(panel["gridPos"]["w"].as_u64()).map(|(x, w)| x + w);
        assert!(right.is_some_and(|right| right <= 24), "{} is beyond the edge", panel["title"]);
        if panel["type"] != "row" {
            assert!(!panel["targets"].as_array().expect("queries").is_empty(), "{}", panel["title"]);
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

#[test]
fn alert_rules_ask_for_metrics_that_exist() {
    let declared = declared();
    let rules = documents::text("examples/grafana/alerts.yml");
    let queries: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(queries.len() >= 5, "{queries:?}");
    for query in queries {
        check_query(query, &declared);
    }
}

#[test]
fn metrics_reference_is_the_programs() {
    let printed = recaption().args(["config", "metrics"]).ends(0).stdout;
    let path = Path::new("docs/src/metrics-reference.md");
    assert_eq!(documents::text(&path.display().to_string()), printed, "run `make reference`");
}
