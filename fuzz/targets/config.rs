//! Any text as a configuration file, a `--set` and a variable: settings or an error, never a secret of a URL in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recaption::config::{Layers, RunConfig};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut layers = Layers::default();
    let _ = layers.add_toml(&text, "fuzz.toml");
    for line in text.lines().take(8) {
        let _ = layers.add_assignment(line);
        if let Some((key, value)) = line.split_once('=') {
            let _ = layers.add_environment(std::iter::once((key.to_owned(), value.to_owned())));
        }
    }
    // What a run's record says can be read again, and then says the same.
    let described = layers.describe();
    let mut again = Layers::default();
    again.add_described(&described, "fuzz").expect("a description can be read");
    assert_eq!(again.describe(), described);
    let _ = RunConfig::build(&layers);
});
