//! `examples/ray`: the unit tests of its driver, which need Python's standard library alone. Real Ray is `examples/ray/trial.py`.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{path::Path, process::Command};

#[test]
fn unit_tests_of_the_ray_driver_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ray");
    let output = Command::new("python3")
        .args(["-W", "error::ResourceWarning", "-m", "unittest", "discover"])
        .args(["--start-directory", "tests", "--top-level-directory", "."])
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let ran = log.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|tests| tests >= 65), "fewer tests ran than there are:\n{log}");
}
